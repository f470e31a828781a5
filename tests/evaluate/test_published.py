"""Published scores: well-formed, of known benchmarks, and shown in the report with protocol and source."""

from dataclasses import replace

import pytest
from helpers import mask

from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.items import Item
from cores_core.evaluate.published import find_published, published_scores
from cores_core.evaluate.report import render_report
from cores_core.evaluate.results import Evaluation
from cores_core.evaluate.scores import SCORE_NAMES
from cores_core.masks import encode_rle
from cores_core.metrics import measure_overlap

BLOCK = mask("##..", "##..")
ITEM = Item("mmr/val/0.0.0", "a.jpg", "", "Which?", True, "", True, measure_overlap(BLOCK, BLOCK), None,
            encode_rle(BLOCK), None, encode_rle(BLOCK), None, 0.0)  # fmt: skip


def test_every_score_is_of_a_known_benchmark_and_has_a_source() -> None:
    assert len(published_scores()) > 20
    for score in published_scores():
        data, _, split = score.part.rpartition("/")
        assert split in BENCHMARKS[score.benchmark].data[data]
        assert set(score.scores) <= set(SCORE_NAMES)
        assert all(0 < value < 1 for value in score.scores.values())
        assert score.source
        assert score.protocol


def test_the_report_shows_those_of_its_parts_beside_its_own() -> None:
    about = {"benchmark": "mmr", "data": {"mmr/val": ""}, "model": "ours", "protocol": "generate"}
    page = render_report(Evaluation((ITEM,), about), lambda _: None)
    assert "Published scores" in page
    assert "M2SA-7B" in page
    assert "48.6" in page
    assert "55.6" not in page  # of test_obj
    assert "read-me of https://github.com/jdg900/MMR" in page
    other = {**about, "benchmark": "custom", "data": {"custom/fish/val": ""}}
    assert "Published scores" not in render_report(Evaluation((replace(ITEM),), other), lambda _: None)


@pytest.mark.parametrize(
    ("benchmark", "part", "system", "scores"),
    [
        ("instructpart", "instructpart/test", "LISA", {"giou": 0.3211, "ciou": 0.3025}),
        ("instructpart-names", "instructpart/test", "LISA", {"giou": 0.3446, "ciou": 0.3944}),
        ("gseval", "gseval/test", "LISA-7B", {"giou": 0.576}),
    ],
)
def test_instructpart_and_gseval_have_those_of_lisa(
    benchmark: str, part: str, system: str, scores: dict[str, float]
) -> None:
    (found,) = (score for score in find_published(benchmark, [part]) if score.system == system)
    assert found.scores == pytest.approx(scores)


def test_parts_are_found_by_name() -> None:
    assert {score.part for score in find_published("mmr", ["mmr/val", "mmr/test_obj"])} == {"mmr/val", "mmr/test_obj"}
    assert find_published("nothing", ["mmr/val"]) == []
