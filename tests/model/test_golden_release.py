"""A folder in the format of the released weights loads as it stands and gives the numbers of the original code."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cores_core import prompts
from cores_core.config import LossWeights
from cores_core.errors import CheckpointError
from cores_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cores_core.model.losses import compute_losses
from cores_core.model.processor import Batch
from cores_core.model.tokenizer import token_id
from cores_core.predict import Predictor
from cores_core.prompts import render_turn
from cores_core.sample import Query, Sample, Turn

QUERIES = {
    "refer_0": [Query("the dog", is_sentence=False), Query("horn on the head", is_sentence=False)],
    "reason_0": [Query("What in this image shows that the dog is wearing something that does not belong to it?")],
}
TRAINING_TURNS = (
    (
        "What in this image shows that the dog is wearing something that does not belong to it? "
        "Please respond with segmentation mask.",
        "We can usually find it on [SEG_SEMA]. The segmentation result is [SEG].",
    ),
    (
        "Where would a person look to see what the dog wants? Please respond with segmentation mask.",
        "Sure, it usually appears on [SEG_SEMA]. The segmentation result is [SEG].",
    ),
    (
        "Which part of the animal is used to smell the food? Please output segmentation mask.",
        "Sure, it usually appears on [SEG_SEMA]. The segmentation result is [SEG].",
    ),
    ("Can you segment the left sink in this image?", "Sure, it appears on [SEG_SEMA]. It is [SEG]."),
    (
        "What is sink in this image? Please output segmentation mask.",
        "It is usually found on [SEG_SEMA]. It is [SEG].",
    ),
    ("Can you segment the the person's hands in this image?", "It typically appears on [SEG_SEMA]. It is [SEG]."),
)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="module")
def predictor(golden: Path) -> Predictor:
    return Predictor.from_checkpoint(golden / "cores_mask/model", device="cpu", dtype="float32")


@pytest.fixture
def copied(golden: Path, tmp_path: Path) -> Path:
    """A copy of the release's folder, to be damaged."""
    return Path(shutil.copytree(golden / "cores_mask/model", tmp_path / "model"))


@pytest.mark.parametrize("case", QUERIES)
def test_prompts_and_ids_equal_the_release(golden: Path, predictor: Predictor, case: str) -> None:
    processor = predictor.checkpoint.processor
    inputs = np.load(golden / f"cores_mask/cases/inputs_{case}.npz")["input_ids"]
    texts = json.loads((golden / "cores_mask/cases/prompts.json").read_text())[case]["conversation_list"]
    for query, expected, text in zip(QUERIES[case], inputs.tolist(), texts, strict=True):
        prompt = processor.prompt
        turn = render_turn(query, prompt)
        image = f"{prompts.IMAGE_START}{prompts.IMAGE}{prompts.IMAGE_END}"
        question, answer = prompts.render_question(turn, prompt), prompts.render_answer(turn, prompt)
        assert f"{prompts.render_prefix(prompt)}{image}{question}{answer}{prompts.END}" == text
        assert _released_ids(predictor.checkpoint, turn) == [i for i in expected if i != 0]  # 0 is padding


@pytest.mark.parametrize(("case", "stride"), [("refer_0", 1), ("reason_0", 4)])
def test_states_prompts_and_masks_equal_the_release(golden: Path, predictor: Predictor, case: str, stride: int) -> None:
    expected = np.load(golden / f"cores_mask/cases/expected_{case}.npz")
    model, processor = predictor.checkpoint.model, predictor.checkpoint.processor
    image = np.load(golden / "data/images_rgb.npz")["img0"]
    turns = tuple(render_turn(query, processor.prompt) for query in QUERIES[case])
    batch = processor.collate([Sample(image, turns)])
    with torch.no_grad():
        hidden, output = model.mllm(batch), model(batch)
    for token, name, prompt in zip(model.chain_ids, ("sema", "seg"), output.text.prompts, strict=True):
        _assert_close(hidden[:, :-1][batch.input_ids[:, 1:] == token], expected[f"hid_{name}"], 1e-4)
        _assert_close(prompt, expected[f"fc_{name}"], 1e-4)
    _assert_close(output.coarse[:, 0, ::stride, ::stride], expected["c1_low"], 1e-3)
    _assert_close(output.refined[:, 0, ::stride, ::stride], expected["c2_low"], 5e-3)


@pytest.mark.parametrize("case", QUERIES)
def test_predictions_equal_the_release(golden: Path, predictor: Predictor, case: str) -> None:
    expected = np.load(golden / f"cores_mask/cases/expected_{case}.npz")
    ours = predictor.predict_many(golden / "images/img0.jpg", QUERIES[case], protocol="teacher_forced")
    for prediction, logits in zip(ours, expected["pred_masks"], strict=True):
        assert prediction.answer == "It usually appears on [SEG_SEMA]. It is [SEG]."
        np.testing.assert_allclose(prediction.logits, logits, atol=5e-3, rtol=0)


def test_with_the_refiner_as_released_before_training_masks_equal_too(golden: Path) -> None:
    checkpoint = load_checkpoint(golden / "cores_mask/model")
    assert checkpoint.model.refiner is not None
    for name, parameter in checkpoint.model.refiner.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    expected = np.load(golden / "cores_mask/cases/expected_constinit_refer_0.npz")["pred_masks"]
    ours = Predictor(checkpoint).predict_many(golden / "images/img0.jpg", QUERIES["refer_0"], protocol="teacher_forced")
    for prediction, logits in zip(ours, expected, strict=True):
        np.testing.assert_allclose(prediction.logits, logits, atol=5e-3, rtol=0)


def test_losses_and_gradients_equal_the_release(golden: Path) -> None:
    checkpoint = load_checkpoint(golden / "cores_mask/model")
    case = golden / "cores_mask/cases"
    expected = json.loads((case / "expected_train.json").read_text())["t1_reason_refer"]["losses"]
    gradients = np.load(case / "expected_train_t1_reason_refer.npz")
    batch = _training_batch(golden, checkpoint)
    model = checkpoint.model
    losses = compute_losses(model(batch), batch, model.segmenter, LossWeights(mask=2.0, bce=2.0, dice=0.5))
    assert losses.text.item() == pytest.approx(expected["ce_loss"], rel=1e-4)
    assert losses.total.item() == pytest.approx(expected["loss"], rel=1e-4)
    losses.total.backward()
    attention = model.mllm.net.model.language_model.layers[1].self_attn
    for ours, name in (
        (model.projection[2].weight, "grad:model.text_hidden_fcs.0.2.weight"),
        (attention.v_proj.weight, "grad:model.layers.1.self_attn.v_proj.weight"),
        (model.segmenter.mask_decoder.mask_tokens.weight, "grad:model.visual_model.mask_decoder.mask_tokens.weight"),
    ):
        np.testing.assert_allclose(ours.grad.numpy(), gradients[name], rtol=1e-3, atol=2e-4)


def test_a_release_saved_in_our_format_is_the_same_model(golden: Path, predictor: Predictor, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", predictor.checkpoint)
    ours = load_checkpoint(tmp_path / "ours")
    theirs = predictor.checkpoint.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.model.state_dict().items())
    turn = render_turn(QUERIES["refer_0"][0], ours.processor.prompt)
    assert _released_ids(ours, turn) == _released_ids(predictor.checkpoint, turn)


def test_a_single_chain_needs_no_location_token(copied: Path, golden: Path) -> None:
    """LISA: no refiner, no `[SEG_SEMA]`, no example in the prompt."""
    _change_json(copied / "added_tokens.json", lambda tree: tree.pop("[SEG_SEMA]"))
    _change_weights(copied, lambda weights: [weights.pop(n) for n in [*weights] if n.startswith("transformer_cross")])
    lisa = load_checkpoint(copied)
    assert (lisa.config.chain.stages, lisa.config.context) == (1, "none")
    (prediction,) = Predictor(lisa).predict_many(
        golden / "images/img0.jpg", [Query("the dog", False)], "teacher_forced"
    )
    assert prediction.answer == "[SEG]."


def test_a_dual_chain_may_lack_the_refiner(copied: Path) -> None:
    _change_weights(copied, lambda weights: [weights.pop(n) for n in [*weights] if n.startswith("transformer_cross")])
    checkpoint = load_checkpoint(copied)
    assert checkpoint.config.chain.stages == 2
    assert checkpoint.model.refiner is None


def test_shards_pickles_and_a_tower_of_its_own_give_the_same_weights(copied: Path, predictor: Predictor) -> None:
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    kept = {name: tensor for name, tensor in weights.items() if "vision_tower" not in name}
    places = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(kept)}
    for shard in set(places.values()):
        torch.save({name: kept[name] for name in kept if places[name] == shard}, copied / shard)
    (copied / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    ours, theirs = load_checkpoint(copied).model.state_dict(), predictor.checkpoint.model.state_dict()
    towers = {name for name in theirs if "vision_tower" in name}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys() - towers)
    assert all(torch.allclose(ours[name], theirs[name]) for name in towers)


def _cut_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _put_code_in(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Code()))


def _forget_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _forget_the_token(folder: Path) -> None:
    _change_json(folder / "added_tokens.json", lambda tree: tree.pop("[SEG]"))


def _lose_a_tensor(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.pop("model.norm.weight"))


def _add_a_tensor(folder: Path) -> None:
    _change_weights(folder, lambda weights: weights.update({"model.extra.weight": torch.zeros(1)}))


def _change_sam(folder: Path) -> None:
    name = "model.visual_model.prompt_encoder.no_mask_embed.weight"
    _change_weights(folder, lambda weights: weights.update({name: torch.zeros(1, 128)}))


def _widen_the_tower(folder: Path) -> None:
    _change_json(folder / "clip/config.json", lambda tree: tree.update(hidden_size=64))


def _lose_the_tower(folder: Path) -> None:
    shutil.rmtree(folder / "clip")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_cut_the_file, "model.safetensors"),
        (_put_code_in, "pytorch_model.bin"),
        (_forget_a_shard, "model-00001-of-00002"),
        (_forget_the_token, r"\[SEG\]"),
        (_lose_a_tensor, "missing .*norm.weight"),
        (_add_a_tensor, "unknown model.extra.weight"),
        (_change_sam, "no_mask_embed"),
        (_widen_the_tower, "vision_tower"),
        (_lose_the_tower, "CLIP vision tower: clip"),
    ],
)
def test_damage_is_one_clear_error(copied: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(copied)
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(copied)
    assert not (copied / "executed").exists()


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("open('executed', 'w')",)


def _released_ids(checkpoint: Checkpoint, turn: Turn) -> list[int]:
    """The ids of a conversation as the release writes them: one -200 for all of an image's tokens."""
    sample = Sample(np.zeros((4, 4, 3), dtype=np.uint8), (turn,))
    ids = checkpoint.processor.collate([sample]).input_ids[0].tolist()
    image = token_id(checkpoint.processor.tokenizer, prompts.IMAGE)
    first = ids.index(image)
    return [*ids[:first], -200, *(i for i in ids[first:] if i != image)]


def _training_batch(golden: Path, checkpoint: Checkpoint) -> Batch:
    """Two images with three turns each, as the release trained on."""
    images = np.load(golden / "data/images_rgb.npz")
    inputs = np.load(golden / "cores_mask/cases/inputs_train_t1_reason_refer.npz")
    turns = [Turn(question, answer) for question, answer in TRAINING_TURNS]
    samples = []
    for number in range(2):
        masks = tuple(inputs[f"gt_masks_{number}"] == 1)
        of_image = tuple(turns[3 * number : 3 * number + 3])
        samples.append(Sample(images[f"img{number}"], of_image, masks, ignores=(None,) * 3))
    return checkpoint.processor.collate(samples)


def _change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def _assert_close(ours: torch.Tensor, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(ours.numpy(), expected, atol=tolerance, rtol=0)
