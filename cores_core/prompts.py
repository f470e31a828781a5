"""Every string the MLLM reads or writes: special tokens, templates, in-context example, conversation.

Source: the CoReS and LISA research releases (system text, templates and example word for word), arXiv:2404.05673.
Deviation: the location token is spelled `[LOC]` as in the paper; the release's spelling is `REFERENCE_SPELLING`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from cores_core.sample import Query, Turn

LOC = "[LOC]"
SEG = "[SEG]"
REFERENCE_SPELLING = {LOC: "[SEG_SEMA]", SEG: "[SEG]"}
"""How the released checkpoints spell our tokens."""

IMAGE = "<image>"
IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
BEGIN = "<s>"
END = "</s>"
UNKNOWN = "<unk>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END, IMAGE, IMAGE_START, IMAGE_END, LOC, SEG)

Context = Literal["none", "fixed"]
"""In-context input: none (LISA), or the release's first example."""
Wording = Literal["cores", "released"]
"""How tokens are spelled and answers are worded: as in the paper, or as in the released weights' evaluation."""

Conversation = Literal["llava_v1", "llava_v0", "llava_llama_2"]
"""How turns are set apart, as the releases name it; the first is their default."""

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SYSTEM_CHAIN = (
    " To realize segmentation, the assistant guesses all possible object it typically appears on "
    "and its distinct appearance. "
)
LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
LLAMA_2_SYSTEM_CHAIN = (
    " To realize segmentation, you guess all possible object it typically appears on and its distinct appearance. "
)
EXAMPLE = (
    "USER: What is the blade in this image? Please output segmentation mask. "
    "ASSISTANT: It is usually found on a knife or propeller. It is the flat, cutting or propelling surface. "
)

PHRASE_QUESTIONS = (
    "Can you segment the {text} in this image?",
    "Please segment the {text} in this image.",
    "What is {text} in this image? Please respond with segmentation mask.",
    "What is {text} in this image? Please output segmentation mask.",
)
SENTENCE_QUESTIONS = (
    "{text} Please respond with segmentation mask.",
    "{text} Please output segmentation mask.",
)
ANSWERS = {
    1: f"It is {SEG}.",
    2: f"It appears on {LOC}. It is {SEG}.",
}
"""The answer of a chain with so many steps: one (LISA) or two (CoReS)."""
RELEASED_ANSWERS = {
    1: f"{REFERENCE_SPELLING[SEG]}.",
    2: f"It usually appears on {REFERENCE_SPELLING[LOC]}. It is {REFERENCE_SPELLING[SEG]}.",
}
"""What the releases put into their models' mouths to score them."""

CHAINS = {1: (SEG,), 2: (LOC, SEG)}
"""The tokens of a chain in the order in which they prompt the segmenter."""


_FRAMES: Mapping[Conversation, tuple[str, str, str]] = MappingProxyType(
    {
        "llava_v1": ("{system} USER: ", "\n {question} ASSISTANT:", " {answer}"),
        "llava_v0": ("{system}###Human: ", "\n {question}###Assistant:", " {answer}###"),
        "llava_llama_2": ("[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", "\n {question} [/INST]", " {answer} "),
    }
)
"""What stands around a conversation's system text, its question and its answer."""


@dataclass(frozen=True)
class PromptFormat:
    """How a conversation is worded. `steps` is the length of the chain, `context` the in-context input."""

    steps: int = 2
    context: Context = "fixed"
    wording: Wording = "cores"
    conversation: Conversation = "llava_v1"

    @property
    def system(self) -> str:
        """The system text, with its sentence about the chain and the in-context example where they belong."""
        llama_2 = self.conversation == "llava_llama_2"
        text = LLAMA_2_SYSTEM if llama_2 else SYSTEM
        if self.steps > 1 or self.context == "fixed":
            text += LLAMA_2_SYSTEM_CHAIN if llama_2 else SYSTEM_CHAIN
        return text + EXAMPLE if self.context == "fixed" else text

    @property
    def answer(self) -> str:
        """The answer template, as given in training and under protocol `given`."""
        return (RELEASED_ANSWERS if self.wording == "released" else ANSWERS)[self.steps]

    @property
    def chain(self) -> tuple[str, ...]:
        """The special tokens of the answer, in order."""
        chain = CHAINS[self.steps]
        return tuple(REFERENCE_SPELLING[token] for token in chain) if self.wording == "released" else chain


def render_turn(query: Query, prompt: PromptFormat, rng: np.random.Generator | None = None) -> Turn:
    """Word a query as a question with its answer.

    Args:
        query: what is asked; special tokens in its text are defused, so they stay plain text.
        prompt: the format.
        rng: draws one of the release's wordings; None takes the last, which its evaluation uses.
    """
    templates = SENTENCE_QUESTIONS if query.is_sentence else PHRASE_QUESTIONS
    template = templates[-1] if rng is None else templates[int(rng.integers(len(templates)))]
    return Turn(question=template.format(text=defuse(query.text)), answer=prompt.answer)


def render_prefix(prompt: PromptFormat) -> str:
    """All that stands before the image: system text, in-context example, the user's role."""
    return _FRAMES[prompt.conversation][0].format(system=prompt.system)


def render_question(turn: Turn, prompt: PromptFormat) -> str:
    """All that stands between the image and the answer."""
    return _FRAMES[prompt.conversation][1].format(question=turn.question)


def render_answer(turn: Turn, prompt: PromptFormat) -> str:
    """The answer as it follows `render_question`, without the end token."""
    return _FRAMES[prompt.conversation][2].format(answer=turn.answer)


def defuse(text: str) -> str:
    """Break up special tokens in a user's text, so that no tokenizer takes them for real ones."""
    text = " ".join(text.split())
    for token in (*SPECIAL_TOKENS, *REFERENCE_SPELLING.values()):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
