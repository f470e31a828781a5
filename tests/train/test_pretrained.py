"""Training that begins with pretrained weights: a LLaVA and a SAM, with adapters or in full, and resumed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bases import save_hub_llava, save_sam
from runs import Listener, read_rows, read_trajectory
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from cores_core.config import BaseConfig, Config, EngineConfig, LoraConfig
from cores_core.errors import ConfigError, CoresError, MissingDataError
from cores_core.model.checkpoint import LoadOptions, load_checkpoint
from cores_core.model.lora import is_adapter
from cores_core.settings import load_config
from cores_core.train.launch import train
from cores_core.train.start import TrainJob, newest_checkpoint, plan_memory, plan_run, start_model

LORA = LoraConfig(rank=4, alpha=8, dropout=0.1)


@pytest.fixture
def lora_job(tiny_config: Config, partworld_root: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Make a job on a LLaVA and a SAM in a thimble; by default with adapters."""
    base = BaseConfig(str(save_hub_llava(tmp_path / "llava")), str(save_sam(tmp_path / "sam.pth")))

    def make(name: str = "run", lora: LoraConfig = LORA, base: BaseConfig = base, **train: object) -> TrainJob:
        settings = replace(tiny_config.train, **train)
        return TrainJob(
            Config(base=base, lora=lora, train=settings), partworld_root, tmp_path / name, torch.device("cpu")
        )

    return make


def test_adapters_learn_and_the_rest_stays(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job()
    before = start_model(plan_run(job, resume=False)).model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    train(job, resume=True)
    newest = newest_checkpoint(job.output)
    assert newest is not None
    after = load_checkpoint(newest, LoadOptions(merge=False)).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(is_adapter(name) for name in changed)
    assert {"projection.0.weight", "mllm.net.lm_head.weight", "refiner.norm.weight"} < changed
    frozen = (
        "image_encoder",
        "prompt_encoder",
        "vision_tower",
        "multi_modal_projector",
        "base_layer",
        "language_model.layers",
    )
    assert not [name for name in changed if any(part in name for part in frozen) and not is_adapter(name)]


def test_the_runs_config_has_the_sizes_of_its_base(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job()
    plan_run(job, resume=False)
    written = load_config(job.output / "config.yaml")
    assert (written.language.hidden_size, written.vision.image_size, written.sam.prompt_embed_dim) == (32, 28, 16)


@pytest.mark.parametrize("lora", [LORA, LoraConfig()])
def test_a_resumed_run_is_the_run_that_never_stopped(lora_job: Callable[..., TrainJob], lora: LoraConfig) -> None:
    calm, rough = lora_job("calm", lora=lora), lora_job("rough", lora=lora)
    train(calm)
    train(rough, [Listener(stop_after=2)])
    train(replace(rough, config=load_config(rough.output / "config.yaml")), resume=True)
    assert read_trajectory(rough.output) == read_trajectory(calm.output)


def test_two_processes_stop_together_and_are_resumed_with_the_dropout_they_would_have_had(
    lora_job: Callable[..., TrainJob],
) -> None:
    calm, rough = lora_job("calm"), lora_job("rough")
    train(calm, processes=2)
    assert train(rough, [Listener(stop_after=2)], processes=2) == 2
    resumed = replace(rough, config=load_config(rough.output / "config.yaml"))
    assert train(resumed, resume=True, processes=2) == 4
    assert read_trajectory(rough.output) == read_trajectory(calm.output)


def test_bf16_holds_the_frozen_part_in_half(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job(precision="bf16")
    model = start_model(plan_run(job, resume=False)).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.segmenter.image_encoder.pos_embed.dtype == torch.bfloat16
    assert train(job, resume=True) == 4


@pytest.mark.usefixtures("compiler")
def test_a_run_may_compile_its_encoder(lora_job: Callable[..., TrainJob]) -> None:
    plain, compiled = lora_job("plain"), lora_job("compiled", compile=True)
    for job in (plain, compiled):
        train(job, [Listener(stop_after=1)])
    (loss,), (other,) = ([row["loss"] for row in read_rows(job.output)] for job in (plain, compiled))
    assert other == pytest.approx(loss, rel=1e-5)
    assert load_checkpoint(newest_checkpoint(compiled.output))


def test_a_run_may_put_adapters_on_any_model(lora_job: Callable[..., TrainJob]) -> None:
    """`--from` with a preset whose sizes are its base's: they are the model's now."""
    first = lora_job("first")
    train(first)
    second = lora_job("second", start_from=str(newest_checkpoint(first.output)))
    train(second)
    newest = newest_checkpoint(second.output)
    assert newest is not None
    apart, merged = (load_checkpoint(newest, LoadOptions(merge=merge)) for merge in (False, True))
    assert apart.config.base == BaseConfig()
    assert any(is_adapter(name) for name in apart.model.state_dict())
    assert not any(is_adapter(name) for name in merged.model.state_dict())
    assert "first" in apart.about["base"]["model"]["source"]


def test_a_release_can_be_trained_further(lora_job: Callable[..., TrainJob], shared: Path) -> None:
    job = lora_job(
        start_from=str(shared / "golden/cores_mask/model"), global_batch_size=1, steps=1, validation_images=1
    )
    assert train(job) == 1
    config = load_config(job.output / "config.yaml")
    assert config.wording == "released"
    assert config.sam.image_size == 1024


def test_its_memory_is_planned_without_loading(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job()
    checkpoint, plan = plan_memory(job)
    assert all(parameter.is_meta for parameter in checkpoint.model.parameters())
    assert not job.output.exists()
    trained = {part.name: part.trainable for part in plan.parts}
    assert trained["vision tower"] == trained["projector"] == trained["SAM image encoder"] == 0
    assert trained["language model"] == 320 * 32 + 2 * 2 * 2 * 4 * 32  # embedding; layers, projections, A and B
    assert trained["SAM mask decoder"] > 0
    real = start_model(plan_run(job, resume=False)).model
    assert plan.weights == sum(p.numel() * p.dtype.itemsize for p in real.parameters())


def test_a_base_that_is_not_there_is_one_error(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job(base=BaseConfig("nowhere/llava-7b-folder/x", "vit_h"))
    with pytest.raises(MissingDataError, match="multimodal LLM nowhere/llava-7b-folder/x, no such folder"):
        train(job)
    assert not job.output.exists()


def test_a_base_that_has_moved_is_named_and_found_again_by_a_link(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job()
    train(job, [Listener(stop_after=2)])
    base = Path(str(job.config.base.mllm))
    moved = base.rename(base.with_name("moved"))
    resumed = replace(job, config=load_config(job.output / "config.yaml"))
    with pytest.raises(CoresError, match=str(base)):
        train(resumed, resume=True)
    base.symlink_to(moved)
    listener = Listener()
    train(resumed, [listener], resume=True)
    assert listener.steps == [3, 4]


def test_adapters_cannot_come_or_go_in_a_run(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job()
    train(job, [Listener(stop_after=2)])
    config = replace(load_config(job.output / "config.yaml"), lora=LoraConfig())
    with pytest.raises(ConfigError, match="`lora` cannot change"):
        train(replace(job, config=config), resume=True)


@pytest.fixture
def encoded() -> Iterator[list[int]]:
    """How many images SAM's encoder was given by each call in training, whatever model it is of."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if isinstance(module, ImageEncoderViT) and module.training:
            sizes.append(len(inputs[0]))

    hook = nn.modules.module.register_module_forward_hook(note)
    yield sizes
    hook.remove()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_finds_embeddings_is_the_run_that_left_them(
    lora_job: Callable[..., TrainJob], tmp_path: Path, encoded: list[int], precision: str
) -> None:
    settings = {"precision": precision, "embedding_cache": str(tmp_path / "embeddings")}
    cold, warm = (lora_job(name, **settings) for name in ("cold", "warm"))
    train(cold)
    assert encoded == [1] * 6  # 4 steps of 2 images, and there are 6 in all
    train(warm)
    assert len(encoded) == 6
    assert read_trajectory(warm.output) == read_trajectory(cold.output)
    assert read_rows(warm.output, "validation") == read_rows(cold.output, "validation")
    ours, theirs = (load_checkpoint(newest_checkpoint(job.output)).model.state_dict() for job in (warm, cold))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_full_folder_changes_nothing_but_the_pace(
    lora_job: Callable[..., TrainJob], tmp_path: Path, encoded: list[int]
) -> None:
    folder = tmp_path / "full"
    roomy = lora_job("roomy", embedding_cache=str(tmp_path / "roomy embeddings"))
    narrow = lora_job("narrow", embedding_cache=str(folder), embedding_cache_gb=5e-6)
    train(roomy)
    encoded.clear()
    train(narrow)
    assert read_trajectory(narrow.output) == read_trajectory(roomy.output)
    assert 6 < len(encoded) <= 8
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 5000


def test_embeddings_are_those_of_a_run_without_a_folder_rounded(
    lora_job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    plain, rounded = lora_job("plain"), lora_job("rounded", embedding_cache=str(tmp_path / "embeddings"))
    for job in (plain, rounded):
        train(job)
    for exact, near in zip(read_rows(plain.output), read_rows(rounded.output), strict=True):
        assert near["loss"] == pytest.approx(exact["loss"], rel=1e-2)


def test_mirrored_images_have_embeddings_of_their_own(
    lora_job: Callable[..., TrainJob], tmp_path: Path, encoded: list[int]
) -> None:
    folder = tmp_path / "embeddings"
    train(lora_job("straight", steps=3, embedding_cache=str(folder)))
    assert 2 * len(encoded) == len(list(folder.rglob("*.safetensors"))) == 12  # an epoch, of SAM and vision tower
    train(lora_job("mirrored", steps=12, random_flip=True, embedding_cache=str(folder)))
    assert 2 * len(encoded) == len(list(folder.rglob("*.safetensors"))) > 18


def test_another_sam_does_not_read_them(lora_job: Callable[..., TrainJob], tmp_path: Path, encoded: list[int]) -> None:
    folder = tmp_path / "embeddings"
    job = lora_job(steps=3, embedding_cache=str(folder))
    other = save_sam(tmp_path / "other.pth", {"image_encoder.neck.1.bias": torch.ones(16)})
    train(job)
    base = replace(job.config.base, sam=str(other))
    train(lora_job("other", base=base, steps=3, embedding_cache=str(folder)))
    assert len(encoded) == 12
    assert len(list(folder.iterdir())) == 3  # of both SAMs, and of the vision tower that they share


def test_embeddings_of_a_sam_that_learns_are_not_kept(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job(lora=LoraConfig(), embedding_cache="embeddings")
    for begin in (lambda: plan_memory(job), lambda: train(job)):
        with pytest.raises(ConfigError, match="frozen"):
            begin()
    assert not job.output.exists()


def test_processes_that_divide_the_encoder_cannot_leave_it_out(lora_job: Callable[..., TrainJob]) -> None:
    job = lora_job(embedding_cache="embeddings")
    divided = replace(job, config=replace(job.config, engine=EngineConfig(zero_stage=3)))
    with pytest.raises(ConfigError, match="ZeRO 3"):
        train(divided)
