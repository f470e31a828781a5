"""A chat template in pieces: ids as of the whole chat, a user's special tokens as text, earlier rounds, examples."""

from dataclasses import replace
from typing import Any

import pytest
from families import tiny_config, tiny_processor
from helpers import noise_image
from PIL import Image

from cores_core.errors import CheckpointError, DataError
from cores_core.model.families.chat import ChatPrompts, cut_template
from cores_core.model.families.table import FAMILIES
from cores_core.model.processor import Processor
from cores_core.model.segmenter import Frame
from cores_core.prompts import PromptFormat, render_turn
from cores_core.sample import Query, Sample, Turn

PROMPT = PromptFormat(stages=2, context="none", conversation="template")
IMAGE = noise_image(80, 120)


def build(name: str, prompt: PromptFormat = PROMPT) -> Processor:
    hub = tiny_processor(tiny_config(name))
    hub.tokenizer.add_tokens(list(prompt.chain), special_tokens=True)
    return Processor(ChatPrompts(hub, FAMILIES[name], prompt, max_tokens=4096), prompt, Frame(64, grid=8))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build(request.param)


def hub_of(processor: Processor) -> Any:
    assert isinstance(processor.mllm, ChatPrompts)
    return processor.mllm.processor


def whole_chat(processor: Processor, rounds: list[tuple[str, str]]) -> list[int]:
    """Ids of a conversation as the hub's processor gives them, rendered and tokenised in one go."""
    messages = [{"role": "system", "content": [{"type": "text", "text": PROMPT.system().strip()}]}]
    for question, answer in rounds:
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    messages[1]["content"].insert(0, {"type": "image"})
    hub = hub_of(processor)
    text = hub.apply_chat_template(messages)
    given = hub(text=[text], images=[Image.fromarray(IMAGE)], add_special_tokens=False, return_tensors="pt")
    ids: list[int] = given["input_ids"][0].tolist()
    return ids


def our_ids(processor: Processor, turn: Turn) -> list[int]:
    (row,) = processor.tokenize(Sample(IMAGE, (turn,)))
    return row.ids


def test_ids_are_those_of_the_whole_chat(processor: Processor) -> None:
    turn = render_turn(Query("Which part steers the fish?"), PROMPT)
    whole = whole_chat(processor, [(turn.question, turn.answer)])
    ours = our_ids(processor, turn)
    assert ours == whole[: len(ours)]
    assert ours[-1] == processor.mllm.end_id
    rest = processor.tokenizer.decode(whole[len(ours) :])
    assert not rest.strip()  # at most the newline behind an answer


def test_what_was_said_before_is_read_as_the_chat_has_it(processor: Processor) -> None:
    said = Turn("What is this?", "It is a fish.", segments=False)
    turn = Turn("Where does it live?", "In the sea.", segments=False, history=(said,))
    whole = whole_chat(processor, [(said.question, said.answer), (turn.question, turn.answer)])
    ours = our_ids(processor, turn)
    assert ours == whole[: len(ours)]


def test_a_users_special_tokens_are_text(processor: Processor) -> None:
    special = hub_of(processor).tokenizer.get_added_vocab()
    text = f"Which part {' '.join(special)} steers it?"
    plain, loaded = (our_ids(processor, Turn(question, PROMPT.answer)) for question in ("Which part?", text))
    ids = set(special.values())
    assert [i for i in loaded if i in ids] == [i for i in plain if i in ids]


def test_a_users_special_tokens_are_text_in_explanations_too(processor: Processor) -> None:
    special = hub_of(processor).tokenizer.get_added_vocab()
    said = " ".join(token for token in special if token not in PROMPT.chain)
    turn = Turn("Which part?", f"{PROMPT.answer} {said}")
    found = [i for i in processor.answer_ids(turn) if i in set(special.values())]
    assert found == [*processor.chain_ids, processor.mllm.end_id]


def test_an_in_context_example_is_part_of_the_system_text(processor: Processor) -> None:
    prefix = processor.mllm.prefix(Sample(IMAGE, (), example="USER: What is a fin? ASSISTANT: A wing. "))
    text = processor.tokenizer.decode(prefix.ids)
    assert text.count("What is a fin?") == 1
    assert text.index("What is a fin?") < text.index(hub_of(processor).tokenizer.decode([_image_id(processor)]))


def test_images_of_different_size_differ_in_tokens_or_not_as_the_family_says() -> None:
    wide, small = noise_image(100, 300), noise_image(64, 64)
    counts = {}
    for name in FAMILIES:
        processor = build(name)
        counts[name] = [processor.mllm.prefix(Sample(i, ())).ids.count(_image_id(processor)) for i in (wide, small)]
    assert counts["gemma3"][0] == counts["gemma3"][1]
    assert counts["qwen3_vl"][0] > counts["qwen3_vl"][1]


def test_an_image_that_the_model_refuses_is_one_error() -> None:
    with pytest.raises(DataError, match="rejects an image of 2000x2 pixels"):
        build("qwen3_vl").tokenize(Sample(noise_image(2, 2000), ()))


def test_a_processor_without_a_template_is_one_error() -> None:
    hub = tiny_processor(tiny_config("qwen3_vl"))
    hub.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        cut_template(hub)


def test_a_template_that_drops_the_answer_is_one_error() -> None:
    hub = tiny_processor(tiny_config("qwen3_vl"))
    hub.chat_template = "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(CheckpointError, match="omits"):
        cut_template(hub)


def test_a_template_that_ends_an_answer_with_text_is_one_error() -> None:
    hub = tiny_processor(tiny_config("qwen3_vl"))
    hub.chat_template = hub.chat_template.replace("'<|im_end|>\\n'", "' \\n<|im_end|>\\n'")
    with pytest.raises(CheckpointError, match="ends an answer with text"):
        cut_template(hub)


def test_each_question_of_a_recurrent_model_has_a_row_of_its_own() -> None:
    processor = build("qwen3_5")
    turns = tuple(render_turn(Query(text), PROMPT) for text in ("one", "the other part"))
    batch = processor.collate([Sample(IMAGE, turns), replace(Sample(IMAGE, turns[:1]))])
    assert len(batch.input_ids) == len(batch.vision["image_grid_thw"]) == 3
    assert batch.counts == (2, 1)
    assert [sorted(set(row.tolist()) - {-1}) for row in batch.sequence_ids] == [[0, 1], [0, 2], [0, 1]]


def _image_id(processor: Processor) -> int:
    hub = hub_of(processor)
    return int(hub.image_token_id if hasattr(hub, "image_token_id") else hub.image_ids[0])
