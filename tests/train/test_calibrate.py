"""Calibration: only the IoU head learns, from the masks that the model draws, and answers below the threshold go."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny_sam
from helpers import noise_image

from cores_core.errors import ConfigError, DataError
from cores_core.model.checkpoint import EMBEDDED, Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.inference import segment_image
from cores_core.model.processor import Processor
from cores_core.model.sams.hub import HubSam
from cores_core.sample import Query
from cores_core.train.calibrate import Calibrated, CalibrationJob, calibrate_rejection, collect_answers

QUERIES = (Query("Which part steers the fish?"), Query("tail of the fish", is_sentence=False), Query("Where is up?"))
HEAD = "segmenter.mask_decoder.iou_prediction_head."


@pytest.fixture(scope="module")
def job(partworld_root: Path) -> CalibrationJob:
    return CalibrationJob(partworld_root, "partworld", "train", images=6, no_target=3, keep=0.6)


@pytest.fixture(scope="module")
def before() -> Checkpoint:
    """The embedded model without rejections."""
    embedded = load_checkpoint(EMBEDDED)
    chain = replace(embedded.config.chain, reject_below=0.0)
    return replace(embedded, config=replace(embedded.config, chain=chain))


@pytest.fixture(scope="module")
def calibrated(job: CalibrationJob) -> Calibrated:
    return calibrate_rejection(load_checkpoint(EMBEDDED), job)


def on_sam2(checkpoint: Checkpoint) -> Checkpoint:
    """The same language model on a SAM 2 of random weights."""
    segmenter, prompts = HubSam(tiny_sam("sam2")), checkpoint.processor
    model = CoresModel(checkpoint.model.mllm, segmenter, prompts.chain_ids, refiner=True).eval()
    return replace(checkpoint, model=model, processor=Processor(prompts.mllm, prompts.prompt, segmenter.frame))


@pytest.mark.parametrize("kind", ["sam1", "sam2"])
def test_the_head_reads_the_states_of_the_final_masks(checkpoint: Checkpoint, job: CalibrationJob, kind: str) -> None:
    sam = replace(checkpoint.config.sam, predicts_iou=True)
    scoring = replace(checkpoint, config=replace(checkpoint.config, sam=sam))
    scoring = scoring if kind == "sam1" else on_sam2(scoring)
    predicted: list[float] = []
    with pytest.MonkeyPatch.context() as patch:

        def listen(*arguments: object) -> list:
            found = segment_image(*arguments)
            predicted.extend(answer.predicted_iou for answer in found)
            return found

        patch.setattr("cores_core.train.calibrate.segment_image", listen)
        answers = collect_answers(scoring, job, lambda done: None)
    head = scoring.model.segmenter.mask_decoder.iou_prediction_head
    with torch.no_grad():
        ours = head(answers.states)[:, 0].clamp(0, 1)
    assert ours.tolist() == pytest.approx(predicted, abs=1e-5)
    assert len(answers.states) == len(answers.ious) == len(answers.absent) == len(answers.held_out) > 20
    assert 0 < int(answers.absent.sum()) <= 18
    assert not answers.ious[answers.absent].any()


def test_only_the_head_learns(before: Checkpoint, calibrated: Calibrated) -> None:
    own, fitted = before.model.state_dict(), calibrated.checkpoint.model.state_dict()
    changed = {name for name, tensor in own.items() if not torch.equal(tensor, fitted[name])}
    assert changed
    assert all(name.startswith(HEAD) for name in changed)


def test_it_predicts_better_than_a_constant_and_keeps_the_share(calibrated: Calibrated) -> None:
    assert calibrated.error < calibrated.error_before
    assert 0.6 * calibrated.giou_before <= calibrated.giou <= calibrated.giou_before
    assert 0 < calibrated.t_acc <= 1
    assert calibrated.checkpoint.config.sam.predicts_iou
    assert calibrated.threshold == calibrated.checkpoint.config.chain.reject_below > 0


def test_an_answer_is_rejected_below_the_threshold_only(
    before: Checkpoint, calibrated: Calibrated, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, calibrated.checkpoint)
    loaded, image = load_checkpoint(tmp_path), noise_image(60, 90)
    assert loaded.config == calibrated.checkpoint.config
    ious = [answer.predicted_iou for answer in segment_image(loaded, image, QUERIES, "teacher_forced")]
    assert None not in ious
    between = float(np.mean(sorted(ious)[:2]))
    chain = replace(loaded.config.chain, reject_below=between)
    strict = replace(loaded, config=replace(loaded.config, chain=chain))
    plain = segment_image(before, image, QUERIES, "teacher_forced")
    for answer, iou, own in zip(segment_image(strict, image, QUERIES, "teacher_forced"), ious, plain, strict=True):
        assert answer.predicted_iou == pytest.approx(iou, abs=1e-6)
        assert answer.rejected == (iou < between)
        assert answer.well_formed
        if answer.rejected:
            assert not (answer.refined > 0).any() and not (answer.coarse > 0).any()
        else:
            np.testing.assert_allclose(answer.refined, own.refined, atol=1e-4)


def test_the_same_seed_fits_the_same_head(job: CalibrationJob, calibrated: Calibrated) -> None:
    again = calibrate_rejection(load_checkpoint(EMBEDDED), job)
    assert (again.threshold, again.n_acc, again.error) == (calibrated.threshold, calibrated.n_acc, calibrated.error)


def test_questions_of_one_kind_are_too_few(checkpoint: Checkpoint, job: CalibrationJob) -> None:
    with pytest.raises(DataError, match="both kinds") as caught:
        calibrate_rejection(checkpoint, replace(job, images=1, no_target=16))  # at most 16 are asked
    assert "--images" in str(caught.value.hint)


@pytest.mark.parametrize(("name", "value"), [("keep", 0.0), ("keep", 1.0), ("images", 0), ("no_target", 0)])
def test_impossible_jobs_name_the_value(job: CalibrationJob, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(job, **{name: value})
