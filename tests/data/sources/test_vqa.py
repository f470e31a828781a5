"""LLaVA-Instruct: conversations in words, and what is no conversation."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from damage import damage_json
from PIL import Image
from shares import read_whole

from cores_core.data.sources.reading import Rejections
from cores_core.data.sources.vqa import VQA_IMAGES, read_vqa
from cores_core.data.store import Record
from cores_core.errors import DataError
from cores_core.sample import Turn

JUNK = (None, "", 7, "\ud800", [], {}, "../a.jpg", "\x00", [{"from": "gpt", "value": 3}])
GOOD = {
    "id": "000000033471",
    "image": "000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
        {"from": "gpt", "value": "White and red."},
        {"from": "human", "value": "Where is it?\n<image>"},
        {"from": "gpt", "value": "On the street."},
    ],
}


def test_a_conversation_is_its_questions_and_answers_without_the_image(tmp_path: Path) -> None:
    (record,) = _read(tmp_path, [GOOD])
    assert (record.image, record.size_hw, record.regions) == (f"{VQA_IMAGES}/000000033471.jpg", (6, 8), ())
    assert record.dialogue == (
        Turn("What are the colors of the bus?", "White and red.", segments=False),
        Turn("Where is it?", "On the street.", segments=False),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "000000000001.jpg"}, "image is missing"),
        ({"image": "../000000033471.jpg"}, "image outside of its folder"),
        ({"image": 3}, "conversation without an image"),
        ({"conversations": []}, "conversation that is not questions and answers"),
        ({"conversations": GOOD["conversations"][:3]}, "conversation that is not questions and answers"),
        ({"conversations": GOOD["conversations"][::-1]}, "conversation that is not questions and answers"),
        ({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]}, "empty text"),
        ({"conversations": [{"from": "human", "value": "\ud800"}, {"from": "gpt", "value": "x"}]}, "not Unicode"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    rejected = Rejections()
    assert len(_read(tmp_path, [GOOD | changes, GOOD], rejected)) == 1
    ((item, found),) = rejected.items
    assert item == "llava_instruct_150k.json[0]"
    assert reason in found


def test_a_file_that_is_no_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a list"):
        _read(tmp_path, {"a": 1})


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    text, rng = json.dumps([GOOD] * 3), random.Random(0)
    outcomes = {"some": 0, "none": 0, "error": 0}
    for _ in range(300):
        try:
            outcomes["some" if _read(tmp_path, damage_json(text, rng, JUNK), Rejections()) else "none"] += 1
        except DataError:
            outcomes["error"] += 1
    assert min(outcomes["some"], outcomes["error"]) > 10


def _read(root: Path, tree: Any, rejected: Rejections | None = None) -> list[Record]:
    image = root / VQA_IMAGES / "000000033471.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        Image.new("RGB", (8, 6)).save(image)
    path = root / "llava_dataset/llava_instruct_150k.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    folder = root / "llava_dataset"
    records, found = read_whole(lambda told, share: read_vqa(folder, root, "llava_instruct_150k", told, share))
    if rejected is not None:
        rejected.items += found.items
    return records
