"""All text of prompts and answers: special tokens, templates, in-context examples, conversation format.

Source: the CoReS and LISA research releases (system text, templates and example word for word), arXiv:2404.05673.
Deviation: the location token is spelled `[LOC]` as in the paper; the release's spelling is `REFERENCE_SPELLING`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from cores_core.choices import ReleasedConversation
from cores_core.sample import Query, Turn

LOC = "[LOC]"
OBJ = "[OBJ]"
SEG = "[SEG]"
REFERENCE_SPELLING = {LOC: "[SEG_SEMA]", SEG: "[SEG]"}
"""Spelling of the chain tokens in the released checkpoints."""

IMAGE = "<image>"
IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
BEGIN = "<s>"
END = "</s>"
UNKNOWN = "<unk>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END, IMAGE, IMAGE_START, IMAGE_END, LOC, SEG, OBJ)

Context = Literal["none", "fixed", "random"]
"""In-context example: none (LISA), the release's example, or in training a random one of `EXAMPLES` per image."""
Wording = Literal["cores", "released"]
"""Spelling of tokens and answers: as in the paper, or as in the evaluation code of the released weights."""

Conversation = Literal[ReleasedConversation, "template"]
"""Chat template: one of the releases (default: llava_v1), or `template` for the model's own."""

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
EXAMPLES = (
    (
        "What is the blade in this image?",
        "It is usually found on a knife or propeller. It is the flat, cutting or propelling surface.",
    ),
    (
        "What keeps the rain out of this house?",
        "It is usually found on top of a building. It is the sloping, covered surface of tiles or slates.",
    ),
    (
        "Where would you pour the water out of this can?",
        "It is usually found on a kettle or watering can. It is the narrow tube that points away from the body.",
    ),
    (
        "What does the carpenter strike the nail with?",
        "It is usually found at the end of a wooden handle. It is the heavy block of metal with a flat face.",
    ),
    (
        "Which part of the plant draws water from the soil?",
        "It is usually found at the foot of a tree or flower. It is the branching, thread-like lower end.",
    ),
    (
        "What tells the time on this wall?",
        "It is usually found on a wall or a wrist. It is the round face with numbers and two thin hands.",
    ),
    (
        "What would you turn to open the door?",
        "It is usually found on one side of a door. It is the small, round or bent piece of metal at hand height.",
    ),
    (
        "Which part of the guitar is plucked?",
        "It is usually found on an instrument of wood. It is a row of thin, taut wires along the neck.",
    ),
)
"""In-context examples: questions with text answers. The first is that of the release."""


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
EXPLANATORY_QUESTIONS = (
    "{text} Please output segmentation mask and explain why.",
    "{text} Please output segmentation mask and explain the reason.",
    "{text} Please output segmentation mask and give some explanation.",
)
ANSWERS = {
    1: f"It is {SEG}.",
    2: f"It appears on {LOC}. It is {SEG}.",
    3: f"It appears on {LOC}. It belongs to {OBJ}. It is {SEG}.",
}
"""Answer template by number of stages: one (LISA), two (CoReS), or three (ablation of the depth)."""
REASONED = "{reason} {answer}"
"""Answer template with chain-of-thought text before the answer (LISACoT, Table S1)."""
REJECTION = "It is not in the image."
"""Answer to a question about something that the image does not show."""
RELEASED_ANSWERS = {
    1: f"{REFERENCE_SPELLING[SEG]}.",
    2: f"It usually appears on {REFERENCE_SPELLING[LOC]}. It is {REFERENCE_SPELLING[SEG]}.",
}
"""Answer templates that the releases supply in their evaluation."""

CHAINS = {1: (SEG,), 2: (LOC, SEG), 3: (LOC, OBJ, SEG)}
"""Chain tokens by number of stages, in the order in which they prompt the segmenter."""


@dataclass(frozen=True)
class _Frame:
    """Format strings of a conversation: system text, first question, answer, later questions."""

    system: str
    question: str
    answer: str
    again: str


_FRAMES: Mapping[Conversation, _Frame] = MappingProxyType(
    {
        "llava_v1": _Frame("{system} USER: ", "\n {question} ASSISTANT:", " {answer}", "USER: {question} ASSISTANT:"),
        "llava_v0": _Frame(
            "{system}###Human: ", "\n {question}###Assistant:", " {answer}###", "Human: {question}###Assistant:"
        ),
        "llava_llama_2": _Frame(
            "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
            "\n {question} [/INST]",
            " {answer} ",
            f"{BEGIN}[INST] {{question}} [/INST]",
        ),
    }
)


@dataclass(frozen=True)
class PromptFormat:
    """Prompt and answer format of a model.

    `stages`: length of the chain; `context`: in-context example; `chain_of_thought`: whether answers contain reasoning;
    `rejects`: whether a question about something that is not in the image is answered by `REJECTION`.
    """

    stages: int = 2
    context: Context = "fixed"
    wording: Wording = "cores"
    conversation: Conversation = "llava_v1"
    chain_of_thought: bool = False
    rejects: bool = False

    def system(self, example: str | None = None) -> str:
        """The system text, with the sentence about the chain and the in-context example where the format has them.

        Args:
            example: the in-context example; None for that of the format, "" for none.
        """
        llama_2 = self.conversation == "llava_llama_2"
        text = LLAMA_2_SYSTEM if llama_2 else SYSTEM
        if example is None:
            example = "" if self.context == "none" else EXAMPLE
        if self.stages > 1 or example:
            text += LLAMA_2_SYSTEM_CHAIN if llama_2 else SYSTEM_CHAIN
        return text + example

    @property
    def answer(self) -> str:
        """The answer template, used in training and with protocol `teacher_forced`."""
        return (RELEASED_ANSWERS if self.wording == "released" else ANSWERS)[self.stages]

    @property
    def chain(self) -> tuple[str, ...]:
        """The chain tokens of the answer, in order."""
        chain = CHAINS[self.stages]
        return tuple(REFERENCE_SPELLING[token] for token in chain) if self.wording == "released" else chain


def render_turn(query: Query, prompt: PromptFormat, rng: np.random.Generator | None = None, reason: str = "") -> Turn:
    """Render a query as a question and its answer template.

    Args:
        query: special tokens in its text are escaped.
        prompt: the format.
        rng: draws one of the release's question templates; None takes the last, as its evaluation does.
        reason: chain-of-thought text of the answer, if the format has it.
    """
    templates = SENTENCE_QUESTIONS if query.is_sentence else PHRASE_QUESTIONS
    template = templates[-1] if rng is None else templates[int(rng.integers(len(templates)))]
    answer = (
        REASONED.format(reason=defuse(reason), answer=prompt.answer)
        if prompt.chain_of_thought and reason
        else prompt.answer
    )
    return Turn(question=template.format(text=defuse(query.text)), answer=answer)


def render_rejection(query: Query, prompt: PromptFormat, rng: np.random.Generator) -> Turn:
    """Render a query about something that the image does not show: the question of `render_turn`, and `REJECTION`."""
    return replace(render_turn(query, prompt, rng), answer=REJECTION, segments=False)


def render_explained(query: Query, prompt: PromptFormat, rng: np.random.Generator) -> Turn:
    """Render a query with an explanatory answer: the answer template followed by `query.answer`."""
    assert query.answer is not None
    template = EXPLANATORY_QUESTIONS[int(rng.integers(len(EXPLANATORY_QUESTIONS)))]
    return Turn(template.format(text=defuse(query.text)), f"{prompt.answer} {defuse(query.answer)}")


def render_dialogue(dialogue: Sequence[Turn], number: int) -> Turn:
    """One turn of a text conversation by its index from 0, with the earlier turns as its history."""
    said = tuple(Turn(defuse(turn.question), defuse(turn.answer), segments=False) for turn in dialogue[: number + 1])
    return replace(said[-1], history=said[:-1])


def render_prefix(prompt: PromptFormat, example: str | None = None) -> str:
    """Text before the image: system text, in-context example (as for `PromptFormat.system`), user's role."""
    return _FRAMES[prompt.conversation].system.format(system=prompt.system(example))


def render_question(turn: Turn, prompt: PromptFormat) -> str:
    """Text between the image and the answer: earlier turns, the question, the assistant's role."""
    frame, text = _FRAMES[prompt.conversation], ""
    for number, said in enumerate((*turn.history, turn)):
        text += (frame.again if number else frame.question).format(question=said.question)
        if said is not turn:
            text += f"{render_answer(said, prompt)}{END}"
    return text


def render_answer(turn: Turn, prompt: PromptFormat) -> str:
    """The answer in the conversation's format, to follow `render_question`, without the end token."""
    return _FRAMES[prompt.conversation].answer.format(answer=turn.answer)


def render_example(question: str, answer: str) -> str:
    """Render a question and its text answer as an in-context example, in the release's format."""
    return f"USER: {defuse(question)} Please output segmentation mask. ASSISTANT: {defuse(answer)} "


def defuse(text: str) -> str:
    """Escape special tokens in a user's text, so that it is tokenised as plain text; collapses whitespace."""
    return break_up(" ".join(text.split()), (*SPECIAL_TOKENS, *REFERENCE_SPELLING.values()))


def break_up(text: str, tokens: Iterable[str]) -> str:
    """Escape tokens in a text by inserting a space after their first character."""
    for token in tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


EXAMPLE = render_example(*EXAMPLES[0])
"""The in-context example of `context="fixed"`."""
