"""Memory from sizes alone: weights are counted exactly, and the whole is near what a model really takes."""

from dataclasses import replace

import pytest
import torch
from model.test_full_size import SEVEN_B

from cores_core.config import Config
from cores_core.model.build import Parts, build_processor
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.families.llava import build_llava
from cores_core.model.plan import count_parameters, plan_prediction, plan_training
from cores_core.model.sams.sam1 import build_sam1


@pytest.fixture(scope="module")
def seven_b(checkpoint: Checkpoint) -> Checkpoint:
    """A 7B model on the meta device, with a tokenizer that makes no difference to its sizes."""
    tokenizer = checkpoint.processor.tokenizer
    with torch.device("meta"):
        mllm = build_llava(SEVEN_B.language, SEVEN_B.vision, image_token_id=0)
        model = CoresModel(mllm, build_sam1(SEVEN_B.sam), chain_ids=(1, 2), refiner=True)
    return Checkpoint(model, build_processor(Parts(SEVEN_B, tokenizer, {})), SEVEN_B, {})


def test_the_weights_are_counted(checkpoint: Checkpoint) -> None:
    plan = plan_prediction(checkpoint, torch.float32)
    assert plan.weights == sum(parameter.numel() * 4 for parameter in checkpoint.model.parameters())
    assert sum(part.parameters for part in plan.parts) == count_parameters(checkpoint.model)["all"]
    assert plan.gradients == plan.optimizer == 0


@pytest.mark.parametrize(
    ("dtype", "load_in", "gib"),
    [
        (torch.float32, None, 28.7),
        (torch.bfloat16, None, 14.4),
        (torch.bfloat16, "8bit", 8.4),
        (torch.bfloat16, "4bit", 5.6),
    ],
)
def test_a_7b_model_in_each_precision(seven_b: Checkpoint, dtype: torch.dtype, load_in: str | None, gib: float) -> None:
    plan = plan_prediction(seven_b, dtype, quantization=load_in)
    assert plan.weights / 2**30 == pytest.approx(gib, abs=0.3)
    assert 0.3 < plan.activations / 2**30 < 2


def test_a_cpu_holds_a_block_of_sam_and_no_large_blocks_of_scores(seven_b: Checkpoint) -> None:
    gpu, cpu = (plan_prediction(seven_b, torch.float32, on_cpu=on_cpu) for on_cpu in (False, True))
    assert gpu.weights == cpu.weights
    sam, padded = seven_b.config.sam, 70  # 64 cells a side in windows of 14
    block = 4 * (20 * sam.embed_dim * padded**2 + 9 * sam.image_size**2)
    assert block < cpu.activations < block + gpu.activations


def test_more_questions_take_more_memory(checkpoint: Checkpoint) -> None:
    few, many = (plan_prediction(checkpoint, torch.float32, questions=number) for number in (1, 50))
    assert many.activations > few.activations


def test_training_adds_gradients_and_two_moments(checkpoint: Checkpoint, tiny_config: Config) -> None:
    checkpoint.model.requires_grad_(True)
    plan = plan_training(replace(checkpoint, config=tiny_config))
    assert plan.gradients == plan.weights
    assert plan.optimizer == 2 * plan.weights
    assert plan.total == plan.weights + plan.gradients + plan.optimizer + plan.activations
