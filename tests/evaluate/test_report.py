"""The report is one self-contained page, escapes all text, and shows the numbers of the scores."""

import base64
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noise_image
from PIL import Image

from cores_core.evaluate.items import Item
from cores_core.evaluate.report import find_pictures, render_report, save_report
from cores_core.evaluate.report_pictures import LONGEST, choose_groups, draw_item
from cores_core.evaluate.results import Evaluation
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap
from cores_core.sample import BoolMask, RgbImage

SIDE = 24
ABOUT: dict[str, Any] = {
    "benchmark": "reasonpart",
    "title": "ReasonPart",
    "protocol": "generate",
    "model": "tiny",
    "seed": 7,
    "data": {"partworld/test": "0123abcd"},
    "warnings": [],
    "versions": {"torch": "2.9.1"},
    "command": "cores eval reasonpart --model tiny",
}


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("img", "link", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, tag: str, name: str) -> list[str]:
        return [value for of_tag, of_name, value in self.attributes if (of_tag, of_name) == (tag, name)]


def square(side: int) -> BoolMask:
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[:side, :side] = True
    return inside


def item(number: int, predicted: int = 8, target: int = 10, part: str = "partworld/test", **changes: Any) -> Item:
    made = Item(
        id=f"{part}/{number}.0.0",
        image=f"{number // 2}.png",
        category="Fish Tail",
        question="What steers the fish?",
        is_sentence=True,
        answer="It appears somewhere.",
        well_formed=True,
        overlap=measure_overlap(square(predicted), square(target)),
        coarse_overlap=measure_overlap(square(4), square(target)),
        mask=encode_rle(square(predicted)),
        coarse_mask=encode_rle(square(4)),
        target=encode_rle(square(target)),
        ignore=None,
        seconds=0.1,
    )
    return replace(made, **changes)


def evaluation(*items: Item, **about: Any) -> Evaluation:
    return Evaluation(items, ABOUT | about)


def show(image: str) -> RgbImage | None:
    return noise_image(SIDE, SIDE)


def gone(image: str) -> RgbImage | None:
    return None


SEVERAL = evaluation(*(item(number, predicted=number + 1) for number in range(9)))


def test_every_element_is_closed_and_no_id_is_twice() -> None:
    page = Page(render_report(SEVERAL, show))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("a", "href")} <= set(ids)


def test_it_loads_nothing() -> None:
    text = render_report(SEVERAL, show)
    page = Page(text)
    assert re.findall(r"https?:|//|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)) == []
    assert "script" not in page.tags
    loading = [value for _, name, value in page.attributes if name in ("src", "srcset", "action", "data")]
    assert len(loading) == 9 and all(value.startswith("data:image/jpeg;base64,") for value in loading)
    assert page.values("link", "href") == ["data:,"]
    assert "default-src 'none'" in page.values("meta", "content")[1]


def test_it_fits_a_phone_and_both_modes() -> None:
    assert "width=device-width" in (text := render_report(SEVERAL, gone)) and "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("field", ["question", "answer", "category", "image", "id"])
def test_text_of_an_item_is_escaped(field: str) -> None:
    evil = "<script>alert('\"&')</script>/a/b"
    text = render_report(evaluation(item(1, **{field: evil})), gone)
    assert "script" not in Page(text).tags
    assert evil in unescape(text) and evil not in text


@pytest.mark.parametrize("key", ["title", "model", "protocol", "command", "warnings", "data", "versions"])
def test_text_about_the_evaluation_is_escaped(key: str) -> None:
    evil = "<img src=x onerror=alert(1)>"
    wrapped = {"warnings": [evil], "data": {evil: evil}, "versions": {evil: evil}}.get(key, evil)
    text = render_report(evaluation(item(1), **{key: wrapped}), gone)
    assert Page(text).values("img", "src") == []
    assert evil in unescape(text) and evil not in text


def test_the_numbers_are_those_of_the_scores() -> None:
    text, scores = render_report(SEVERAL, show), SEVERAL.scores
    for name, shown in (("giou", "gIoU"), ("ciou", "cIoU"), ("ciou_large", "cIoU large"), ("miou", "mIoU")):
        value, interval = scores.values[name], scores.intervals[name]
        assert value is not None and interval is not None
        between = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
        assert f'<th scope="row">{shown}</th><td>{100 * value:.1f}</td><td>{between}</td>' in text
    assert "<strong>9</strong><small>on 5 images</small>" in text


def test_both_masks_of_the_chain_are_scored() -> None:
    text = render_report(evaluation(item(1, predicted=10), item(2, predicted=2)), show)
    assert '<th scope="row">gIoU</th><td>16.0<small>' in text and "<td>52.0<small>" in text
    assert "C2 has a higher IoU than C1 for 1 of 2 questions, a lower one for 1." in text


def test_scores_without_a_value_are_left_out() -> None:
    text = render_report(evaluation(item(1, target=2)), gone)
    assert ">gIoU</th>" in text
    for missing in ("cIoU large", "cIoU medium", "N-acc", "None", "nan"):
        assert missing not in text


def test_parts_have_a_table_only_if_there_are_several() -> None:
    assert 'id="parts"' not in render_report(SEVERAL, show)
    text = render_report(evaluation(item(1), item(2, part="reasonpart/pascal_part", predicted=10)), show)
    assert (
        '<th scope="col">partworld/test</th><th scope="col">reasonpart/pascal_part</th><th scope="col">all</th>' in text
    )
    assert '<th scope="row">questions</th><td>1</td><td>1</td><td>2</td>' in text


def test_short_and_long_questions_have_a_table_only_if_there_are_both() -> None:
    assert 'id="kinds"' not in render_report(SEVERAL, show)
    text = render_report(evaluation(item(1), item(2, is_sentence=False, predicted=10)), show)
    assert "phrases (short)" in text and "<td>100.0<small>" in text


def test_warnings_stand_above_the_scores() -> None:
    assert 'class="warnings"' not in render_report(SEVERAL, show)
    text = render_report(evaluation(item(1), warnings=["Trained on val.", "Only 3 images."]), show)
    assert "<li>Trained on val.</li><li>Only 3 images.</li>" in text
    assert text.index("Trained on val.") < text.index('id="scores"')


def test_the_protocol_is_explained() -> None:
    explained = {
        "teacher_forced": "teacher-forced",
        "generate": "wrote its answers itself",
        "from elsewhere": "another system",
    }
    for protocol, words in explained.items():
        assert words in render_report(evaluation(item(1), protocol=protocol), show)


def test_provenance_is_shown() -> None:
    text = render_report(SEVERAL, show)
    for known in (
        "cores eval reasonpart --model tiny",
        "0123abcd",
        "torch 2.9.1",
        "<dt>seed of the data</dt><dd>7</dd>",
    ):
        assert known in text


def test_the_share_of_well_formed_answers_is_shown_except_for_external_predictions() -> None:
    items = item(1), item(2, well_formed=False)
    assert "<b>50.0 %</b> of the answers (1 of 2" in render_report(evaluation(*items), show)
    foreign = [replace(one, coarse_overlap=None, coarse_mask=None, answer="") for one in items]
    text = render_report(evaluation(*foreign, protocol="from elsewhere"), gone)
    assert "well-formed" not in text and "C1" not in text
    Page(text)


def test_an_evaluation_of_nothing_says_so() -> None:
    text = render_report(evaluation(), show)
    assert Page(text).tags.count("section") == 2 and "nothing to score" in text and "cores eval reasonpart" in text


def test_missing_provenance_is_left_out() -> None:
    text = render_report(Evaluation((item(1, category=""),), {"benchmark": "my own"}), show)
    Page(text)
    assert "<h1>my own</h1>" in text and 'id="categories"' not in text and "Pr@0.5" in text


def test_a_missing_or_resized_image_is_noted() -> None:
    assert "image cannot be read: 0.png" in render_report(evaluation(item(1)), gone)
    text = render_report(evaluation(item(1)), lambda image: noise_image(SIDE, SIDE + 1))
    assert "image size differs from the ground truth: 0.png" in text
    assert Page(text).values("img", "src") == []


def test_a_question_without_target_or_answer_is_shown() -> None:
    text = render_report(evaluation(item(1, predicted=0, target=0)), show)
    Page(text)
    assert "no target" in text and "empty mask" in text and "1 without a target are not shown" in text


def test_the_same_evaluation_is_the_same_page() -> None:
    again = evaluation(*(item(number, predicted=number + 1) for number in range(9)))
    assert render_report(SEVERAL, show) == render_report(again, show)


def test_each_item_is_shown_once_the_worst_first_by_iou_then_id() -> None:
    items = [item(number, predicted=1 + number % 10) for number in range(60)]
    worst, best, at_random = choose_groups(items, seed=0)
    assert [len(group.items) for group in (worst, best, at_random)] == [12, 12, 12]
    assert [one.id for one in worst.items[:3]] == [f"partworld/test/{n}.0.0" for n in ("0", "10", "20")]
    assert {one.overlap.iou for one in best.items} == {1.0, 0.81}
    assert len({one.id for group in (worst, best, at_random) for one in group.items}) == 36
    assert choose_groups(items[::-1], seed=0) == [worst, best, at_random]
    assert choose_groups(items, seed=1)[2] != at_random


def test_few_items_are_shared_among_the_groups() -> None:
    groups = choose_groups([item(number, predicted=number + 1) for number in range(4)], seed=0)
    assert [(group.key, len(group.items)) for group in groups] == [("worst", 2), ("best", 2)]
    assert choose_groups([], seed=0) == []


def test_a_picture_shows_answer_first_step_and_truth() -> None:
    drawn = draw_item(item(1, predicted=8, target=20), np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)).astype(int)
    red, green, blue = drawn[60:80, 100:120].mean(axis=(0, 1))  # in the answer, outside the first step
    assert red > blue > green
    corner = drawn[:, 60:75].reshape(-1, 3)
    assert ((corner[:, 0] > 200) & (corner[:, 1] > 180) & (corner[:, 2] < 90)).any()  # yellow: the first step
    edge = drawn[320:345, 100:140].reshape(-1, 3)
    assert (edge.min(axis=1) > 240).any() and (edge.max(axis=1) < 40).any()  # white on black: the truth
    assert (drawn[370:390, 370:390] < 128).all()  # the rest steps back


def test_two_hundred_items_fit_into_five_megabytes() -> None:
    noise, covered = noise_image(480, 720), np.zeros((480, 720), dtype=bool)
    covered[:200, :300] = True
    rle = encode_rle(covered)
    made = (item(number, category=f"part {number}") for number in range(200))
    items = [replace(one, mask=rle, target=rle, coarse_mask=rle) for one in made]
    assert 500_000 < len(render_report(evaluation(*items), lambda image: noise).encode()) < 5_000_000


def test_it_is_saved_beside_its_evaluation(tmp_path: Path) -> None:
    Image.fromarray(noise_image(SIDE, SIDE)).save(tmp_path / "0.png")
    path = save_report(evaluation(item(0), item(1), item(2)), tmp_path / "new" / "folder", tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "new" / "folder" / "report.html"
    shown = Page(text).values("img", "src")
    pictures = [Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) for source in shown]
    assert [(one.format, one.size) for one in pictures] == [("JPEG", (LONGEST, LONGEST))] * 2
    assert "image cannot be read: 1.png" in text
    assert str(tmp_path) not in text


def test_images_are_found_in_the_data_root(tmp_path: Path) -> None:
    image = noise_image(SIDE, SIDE)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    pictures = find_pictures(tmp_path)
    found = pictures("a.png")
    assert found is not None and np.array_equal(found, image)
    assert pictures("b.png") is None and pictures("c.png") is None
