"""The dual chain: its two steps, its gradients, and batches of any make-up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_checkpoint
from helpers import mask, noise_image

from cores_core import prompts
from cores_core.config import ChainConfig, Config
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import ChainOutput
from cores_core.model.processor import IGNORED_LABEL, Batch
from cores_core.model.tokenizer import token_id
from cores_core.prompts import render_turn
from cores_core.sample import Query, RgbImage, Sample

QUESTIONS = ("Which part steers the fish?", "What would a bird use to fly away from here?", "Where is its end?")


@pytest.fixture(scope="module")
def single(tiny_config: Config) -> Checkpoint:
    """A chain of one step, as in LISA."""
    return build_checkpoint(replace(tiny_config, chain=ChainConfig(stages=1), context="none"))


def test_a_dual_chain_has_two_masks_for_every_query(checkpoint: Checkpoint) -> None:
    output = _forward(checkpoint, _ask(checkpoint, *QUESTIONS), _ask(checkpoint, QUESTIONS[0]))
    assert len(output.stages) == 2
    assert output.coarse.shape == output.refined.shape == (4, 1, 32, 32)
    assert not torch.allclose(output.coarse, output.refined)


def test_a_single_chain_has_one_mask_and_no_refiner(single: Checkpoint) -> None:
    output = _forward(single, _ask(single, *QUESTIONS))
    assert len(output.stages) == 1
    assert output.coarse is output.refined
    assert single.model.refiner is None
    assert single.model.chain_ids == (token_id(single.processor.tokenizer, prompts.SEG),)


def test_a_single_chain_ignores_the_location_token(single: Checkpoint) -> None:
    sample = _ask(single, QUESTIONS[0])
    loc, seg, end = (
        token_id(single.processor.tokenizer, prompts.LOC),
        *single.model.chain_ids,
        single.processor.mllm.end_id,
    )
    before = single.processor.collate([sample], answers=[[[300, seg, end]]])
    after = single.processor.collate([sample], answers=[[[300, seg, loc, end]]])
    with torch.no_grad():
        torch.testing.assert_close(single.model(before).refined, single.model(after).refined, atol=1e-6, rtol=0)


def test_a_batch_equals_its_images_one_by_one(checkpoint: Checkpoint) -> None:
    samples = [_ask(checkpoint, *QUESTIONS), _ask(checkpoint, QUESTIONS[1], image=noise_image(50, 20, seed=1))]
    together = _forward(checkpoint, *samples)
    alone = [_forward(checkpoint, sample) for sample in samples]
    for step in range(2):
        torch.testing.assert_close(
            together.stages[step], torch.cat([output.stages[step] for output in alone]), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(
        together.text.logits, torch.cat([output.text.logits for output in alone]), atol=1e-5, rtol=0
    )


def test_questions_together_equal_questions_alone(checkpoint: Checkpoint) -> None:
    together = _forward(checkpoint, _ask(checkpoint, *QUESTIONS))
    alone = [_forward(checkpoint, _ask(checkpoint, question)) for question in QUESTIONS]
    torch.testing.assert_close(together.refined, torch.cat([output.refined for output in alone]), atol=1e-5, rtol=0)


def test_a_mask_is_prompted_by_the_state_before_its_token(checkpoint: Checkpoint) -> None:
    """The state that predicts a token cannot see it: another token in its place moves nothing before."""
    batch = checkpoint.processor.collate([_ask(checkpoint, QUESTIONS[0])])
    with torch.no_grad():
        hidden = checkpoint.model.mllm(batch)
        output = checkpoint.model(batch)
        for step, token_id in enumerate(checkpoint.model.chain_ids):
            place = batch.input_ids[0].tolist().index(token_id)
            prompt = checkpoint.model.projection(hidden[:, place - 1])
            torch.testing.assert_close(output.text.prompts[step], prompt)


def test_text_logits_predict_the_answer_from_the_token_before(checkpoint: Checkpoint) -> None:
    batch = checkpoint.processor.collate([_ask(checkpoint, *QUESTIONS[:2])])
    with torch.no_grad():
        output, hidden = checkpoint.model(batch), checkpoint.model.mllm(batch)
        logits = checkpoint.model.mllm.logits(hidden)
    places = torch.nonzero(batch.labels[0] != IGNORED_LABEL).flatten()
    assert output.text.labels.tolist() == batch.input_ids[0, places].tolist()
    torch.testing.assert_close(output.text.logits, logits[0, places - 1])


def test_the_first_step_learns_from_the_last_mask_through_the_prior(checkpoint: Checkpoint) -> None:
    model = checkpoint.model
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 16, 8, 8, generator=generator)
    locate, seg = (torch.randn(2, 16, generator=generator).requires_grad_() for _ in range(2))
    coarse, refined = model.segment((embeddings,), (locate, seg))
    to_locate, to_coarse = torch.autograd.grad(refined.square().sum(), [locate, coarse])
    assert (to_locate.abs().amax(dim=1) > 0).all()
    assert (to_coarse.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_without_the_refiner_the_prior_alone_joins_the_steps(checkpoint: Checkpoint, tiny_config: Config) -> None:
    plain = build_checkpoint(replace(tiny_config, chain=ChainConfig(stages=2, refiner=False)))
    assert plain.model.refiner is None
    assert checkpoint.model.refiner is not None
    output = _forward(plain, _ask(plain, QUESTIONS[0]))
    with torch.no_grad():
        expected = plain.model.segmenter.decode(output.features, output.text.prompts[1], mask_input=output.coarse)
    torch.testing.assert_close(output.refined, expected)


def test_every_part_that_should_learn_gets_a_gradient(checkpoint: Checkpoint) -> None:
    model = build_checkpoint(checkpoint.config).model
    output = model(checkpoint.processor.collate([_ask(checkpoint, *QUESTIONS)]))
    (output.refined.square().sum() + output.text.logits.square().sum()).backward()
    for part in (model.mllm.net.lm_head, model.projection, model.refiner, model.segmenter.image_encoder):
        assert part is not None
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters() if p.dim() > 1), part


def test_targets_do_not_change_the_forward(checkpoint: Checkpoint) -> None:
    bare = _ask(checkpoint, QUESTIONS[0], image=noise_image(2, 4))
    with_target = replace(bare, masks=(mask("#...", "...."),), ignores=(None,))
    assert torch.equal(_forward(checkpoint, bare).refined, _forward(checkpoint, with_target).refined)


def _ask(checkpoint: Checkpoint, *questions: str, image: RgbImage | None = None) -> Sample:
    turns = tuple(render_turn(Query(question), checkpoint.processor.prompt) for question in questions)
    return Sample(image=noise_image(30, 40) if image is None else np.asarray(image), turns=turns)


@torch.no_grad()
def _forward(checkpoint: Checkpoint, *samples: Sample) -> ChainOutput:
    batch: Batch = checkpoint.processor.collate(list(samples))
    output: ChainOutput = checkpoint.model(batch)
    return output
