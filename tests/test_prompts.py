"""What the model reads is, letter for letter, what the release reads."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cores_core import prompts
from cores_core.prompts import PromptFormat, defuse, render_turn
from cores_core.sample import Query, Turn

IMAGE = f"{prompts.IMAGE_START}{prompts.IMAGE}{prompts.IMAGE_END}"
CHAIN = PromptFormat(stages=2, context="fixed")
LISA = PromptFormat(stages=1, context="none")
QUERIES = {
    "refer_0": [Query("the dog", is_sentence=False), Query("horn on the head", is_sentence=False)],
    "reason_0": [
        Query("What in this image shows that the dog is wearing something that does not belong to it?")
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", QUERIES)
def test_a_conversation_equals_the_release(shared: Path, case: str) -> None:
    golden = json.loads((shared / "golden/cores_mask/cases/prompts.json").read_text())[case]["conversation_list"]
    ours = [_render_conversation(render_turn(query, CHAIN), CHAIN) for query in QUERIES[case]]
    # the release trains with eighteen answers and is scored with the second; we have the first alone
    assert [text.replace("It appears on", "It usually appears on") for text in ours] == golden


def test_templates_equal_the_release(shared: Path) -> None:
    golden = _load_templates(shared, "cores")
    assert [f"<image>\n{t}".replace("{text}", "{class_name}") for t in prompts.PHRASE_QUESTIONS] == golden[
        "SHORT_QUESTION_LIST"
    ]
    assert [f"<image>\n{t}".replace("{text}", "{sent}") for t in prompts.SENTENCE_QUESTIONS] == golden[
        "LONG_QUESTION_LIST"
    ]
    assert golden["EXAMPLE_QA_LIST"][0] == prompts.EXAMPLE
    assert _respell(CHAIN.answer) == golden["ANSWER_LIST"][0]
    assert golden["templates"]["llava_v1"]["system"] == prompts.SYSTEM + prompts.SYSTEM_CHAIN


@pytest.mark.parametrize("conversation", ["llava_v0", "llava_llama_2"])
def test_other_conversations_equal_the_release(shared: Path, conversation: Any) -> None:
    cases = json.loads((shared / "golden/data/collate_cores.json").read_text())["cases"]
    case = cases[f"{conversation}/one/train"]
    (question, answer) = case["turns"][0]
    prompt = replace(CHAIN, conversation=conversation)
    turn = Turn(question.removeprefix("<image>\n"), answer)
    ours = _render_conversation(turn, prompt)
    if conversation == "llava_v0":
        ours = ours.removesuffix(prompts.END)  # this one ends with its separator
    golden = case["prompts_in"][0].replace(prompts.IMAGE, IMAGE)
    assert ours.replace(f"{IMAGE}\n ", f"{IMAGE}\n") == golden  # the evaluation's blank, which no tokenizer sees


@pytest.mark.parametrize("conversation", ["llava_v1", "llava_v0", "llava_llama_2"])
@pytest.mark.parametrize(("release", "prompt"), [("cores", PromptFormat(context="none")), ("lisa", LISA)])
def test_system_texts_equal_the_releases(shared: Path, release: str, prompt: PromptFormat, conversation: Any) -> None:
    golden = _load_templates(shared, release)["templates"][conversation]["system"]
    assert replace(prompt, conversation=conversation).system() == golden


def test_the_prefix_of_lisa_equals_its_release(shared: Path) -> None:
    golden = _load_templates(shared, "lisa")
    conversation = golden["templates"]["llava_v1"]
    expected = f"{conversation['system']}{conversation['sep']}{conversation['roles'][0]}: "
    assert prompts.render_prefix(LISA) == expected
    assert golden["ANSWER_LIST"][0] == LISA.answer


def test_without_an_example_only_the_example_is_missing() -> None:
    without = prompts.render_prefix(PromptFormat(stages=2, context="none"))
    assert prompts.render_prefix(CHAIN).replace(prompts.EXAMPLE, "") == without


def test_the_example_has_no_special_token() -> None:
    assert not any(token in prompts.EXAMPLE for token in prompts.SPECIAL_TOKENS)


@pytest.mark.parametrize(("prompt", "chain"), [(CHAIN, ("[LOC]", "[SEG]")), (LISA, ("[SEG]",))])
def test_the_answer_holds_the_chain_in_order(prompt: PromptFormat, chain: tuple[str, ...]) -> None:
    assert prompt.chain == chain
    assert [prompt.answer.count(token) for token in chain] == [1] * len(chain)
    assert sorted(chain, key=prompt.answer.index) == list(chain)


def test_without_luck_the_wording_is_the_one_of_evaluation() -> None:
    phrase, sentence = Query("fish tail", is_sentence=False), Query("Where is up?")
    assert render_turn(phrase, CHAIN).question == "What is fish tail in this image? Please output segmentation mask."
    assert render_turn(sentence, CHAIN).question == "Where is up? Please output segmentation mask."


def test_the_wording_depends_on_the_rng_alone() -> None:
    query = Query("fish tail", is_sentence=False)
    drawn = [[render_turn(query, CHAIN, rng) for _ in range(50)] for rng in (_rng(5), _rng(5), _rng(6))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {turn.question for turn in drawn[0]} == {t.format(text="fish tail") for t in prompts.PHRASE_QUESTIONS}


@pytest.mark.parametrize("text", ["{text}", "{0} and {}", "50 % of {a}"])
def test_braces_in_a_question_are_plain_text(text: str) -> None:
    assert render_turn(Query(text), CHAIN).question == f"{text} Please output segmentation mask."


@pytest.mark.parametrize("token", [*prompts.SPECIAL_TOKENS, "[SEG_SEMA]"])
def test_a_special_token_in_a_question_is_broken_up(token: str) -> None:
    text = defuse(f"is {token} {token}{token} here")
    assert token not in text
    assert text.replace(" ", "") == f"is{token * 3}here"


def test_no_mixture_of_token_pieces_gets_through() -> None:
    pieces = ["[", "]", "SEG", "LOC", "<", ">", "s", "/s", "image", "<s>", "[SEG]", " ", "\n"]
    rng = _rng(0)
    for _ in range(2000):
        text = defuse("".join(pieces[i] for i in rng.integers(len(pieces), size=12)))
        assert not any(token in text for token in prompts.SPECIAL_TOKENS)


def test_defusing_leaves_plain_text_alone_but_for_blanks() -> None:
    assert defuse("the [red]  fish <left>\n of two\t") == "the [red] fish <left> of two"


def test_special_tokens_share_no_beginning() -> None:
    """No token is a part of another, so the order in which they are broken up does not matter."""
    assert not any(a in b for a, b in itertools.permutations(prompts.SPECIAL_TOKENS, 2))


def _render_conversation(turn: Turn, prompt: PromptFormat) -> str:
    """A conversation as one string, with the image where the processor puts it and the release's spelling."""
    question, answer = prompts.render_question(turn, prompt), prompts.render_answer(turn, prompt)
    return _respell(f"{prompts.render_prefix(prompt)}{IMAGE}{question}{answer}{prompts.END}")


def _respell(text: str) -> str:
    for ours, theirs in prompts.REFERENCE_SPELLING.items():
        text = text.replace(ours, theirs)
    return text


def _load_templates(shared: Path, release: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared / f"golden/data/templates_{release}.json").read_text())
    return loaded


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
