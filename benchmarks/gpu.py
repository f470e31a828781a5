"""Time, memory and throughput of a model of published sizes on a GPU, in at most 8 minutes.

    python benchmarks/gpu.py                            # CoReS-7B: LLaVA 7B and SAM ViT-H, LoRA of rank 8, bf16
    python benchmarks/gpu.py --device cpu --size tiny   # the same code at tiny sizes, in seconds

The model is built on the meta device and filled with random values on the GPU; nothing is downloaded. Compares packed
with unpacked questions, times answers to 1 and 8 questions about an image and a training step of 2 images with 3
questions each, with each switch on and off, and lists the host synchronisations of a step. Collation is not timed.
Prints Markdown: one table, and below it the comparison and the synchronisations.
Switches: `checkpointing` is train.activation_checkpointing, `cache` train.embedding_cache with all features cached,
`compile` train.compile.
Memory is `torch.cuda.max_memory_allocated`, on a CPU the peak resident memory beyond that before the model was built;
beside it is the estimate of `--plan`. FLOPs are those of the operations that were run without recomputation; of the
share of the peak, SAM's mask decoder is computed in float32.
"""

import argparse
import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from speed import LORA, TRAINED_IMAGES, list_questions, new_image, new_queries, new_sample, pixels, split
from synchronisations import list_synchronisations
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cores_core.config import ChainConfig, Config, LanguageConfig, SamConfig, TrainConfig, VisionConfig
from cores_core.errors import ConfigError
from cores_core.model.build import build_tokenizer
from cores_core.model.checkpoint import Checkpoint, LoadOptions, assemble
from cores_core.model.cores import HALVED, ChainOutput, CoresModel
from cores_core.model.embeddings import EmbeddingCache
from cores_core.model.inference import segment_image
from cores_core.model.lora import add_lora, choose_trainable
from cores_core.model.losses import compute_losses, count_terms
from cores_core.model.placement import check_compiler, compile_encoder
from cores_core.model.plan import plan_prediction, plan_training
from cores_core.model.processor import PADDING, Batch
from cores_core.model.weights.pretrained import read_base
from cores_core.runtime import Group, resolve_device, seed_everything
from cores_core.sample import Query, RgbImage
from cores_core.settings import load_config
from cores_core.train.engine import TorchEngine
from cores_core.train.loop import Learner, StepData, train_step
from cores_core.train.recipe import Objective, Recipe

QUESTIONS = 3
TOLERANCE = 1e-3
"""Largest relative difference of the loss of packed and unpacked questions in bf16."""
PRESETS = {"7b": "cores-7b", "7b-llava1.5": "cores-7b-llava1.5", "13b": "cores-13b", "medium": "medium"}
TINY = Config(
    language=LanguageConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=800
    ),
    vision=VisionConfig(image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    sam=SamConfig(
        image_size=64,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        window_size=4,
        global_attn_indexes=(1,),
        prompt_embed_dim=16,
    ),
    chain=ChainConfig(stages=2, refiner=True),
)
PEAK_TFLOPS: Sequence[tuple[str, float]] = (
    ("B200", 2250),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("A100", 312),
    ("A40", 150),
    ("A10G", 70),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 5090", 209),
    ("RTX 4090", 165),
    ("RTX 3090", 71),
)
"""Dense bf16 TFLOP/s by parts of device names, from the data sheets; the first that fits counts."""
FORMS: Sequence[tuple[str, ...]] = (
    (),
    ("checkpointing",),
    ("cache",),
    ("checkpointing", "cache"),
    ("compile",),
    ("checkpointing", "compile"),
)
"""Switches of the training steps: train.activation_checkpointing, train.embedding_cache, train.compile."""
COMPILING = 120
"""Seconds to leave for the compilation of SAM's encoder."""
COLUMNS = ("task", "switches", "seconds", "images/s", "tokens/s", "TFLOP", "share of peak", "peak GiB", "plan GiB")


@dataclass(frozen=True)
class Machine:
    """Where and how to measure.

    Attributes:
        device: of the model. peak: its bf16 peak in FLOP/s, None if unknown.
        deadline: after which no measurement begins, by `time.perf_counter`.
        resident: resident memory of this process in bytes before the model was built.
        compiles: whether to measure train.compile.
    """

    device: torch.device
    peak: float | None
    repetitions: int
    deadline: float
    resident: int
    compiles: bool

    @property
    def is_cuda(self) -> bool:
        """Whether times and memory are CUDA's."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Work:
    """What a row measures: its amount of images and tokens, FLOPs (None if not counted), and the estimated memory."""

    task: str
    switches: str
    images: int
    tokens: int
    flops: float | None
    plan: int


def main() -> None:
    """Build, compare, measure, print."""
    options = parse()
    started = time.perf_counter()
    import_module("peft")  # before the resident memory is read
    machine = Machine(
        device := resolve_device(options.device),
        find_peak(device, options.peak_tflops),
        options.repetitions,
        started + options.seconds,
        read_resident("VmRSS"),
        not options.no_compile,
    )
    checkpoint = build(options.size, machine)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters()) / 1e9
    built = time.perf_counter() - started
    name = torch.cuda.get_device_name(device) if machine.is_cuda else "CPU"
    print(f"`{options.size}` ({parameters:.2f} billion parameters) on {name}, torch {torch.__version__}.")
    print(f"Built in {built:.1f} s.\n")
    compared = compare(checkpoint)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in measure_prediction(checkpoint, machine):
        print(f"| {' | '.join(row)} |", flush=True)
    learner = new_learner(checkpoint)
    for row in measure_training(checkpoint, learner, machine):
        print(f"| {' | '.join(row)} |", flush=True)
    print("\n" + "\n".join(f"- {line}" for line in compared))
    places = list_synchronisations(new_step(checkpoint, learner, checkpoint.config)[0], device)
    print(f"- Host synchronisations of a training step: {sum(places.values())}")
    for place, count in places.items():
        print(f"    - {count} x {place}")
    print(f"- All of it took {time.perf_counter() - started:.0f} s.")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7b", choices=("tiny", *PRESETS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 TFLOP/s of the card; default by its name")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=420, help="begin no measurement after this time")
    parser.add_argument("--no-compile", action="store_true", help="leave out train.compile, which takes a minute")
    return parser.parse_args()


def find_peak(device: torch.device, given: float | None) -> float | None:
    """The card's peak in FLOP/s: as given in TFLOP/s, or by its name; None if unknown."""
    if given is None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        given = next((peak for part, peak in PEAK_TFLOPS if part in name), None)
    return None if given is None else given * 1e12


def build(size: str, machine: Machine) -> Checkpoint:
    """A model of a size with random values on the device, the MLLM and SAM's encoder in bfloat16."""
    config = TINY if size == "tiny" else load_config(PRESETS[size])
    train = TrainConfig(
        steps=1000,
        warmup_steps=1,
        learning_rate=1e-6,
        global_batch_size=TRAINED_IMAGES,
        queries_per_image=QUESTIONS,
        precision="bf16",
    )
    config = replace(config, train=train)
    parts = read_base(
        config, lambda: build_tokenizer(list_questions(), config.language.vocab_size), shapes_only=True, published=True
    )
    checkpoint = assemble(parts, LoadOptions(dtype=None))
    seed_everything(0)
    fill(checkpoint.model, machine.device)
    return checkpoint


@torch.no_grad()
def fill(model: CoresModel, device: torch.device) -> None:
    """Replace tensors on the meta device by random values on another, tensor by tensor, and move the others there."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            dtype = torch.bfloat16 if f"{prefix}.{name}".startswith(HALVED) else torch.float32
            value = torch.empty(parameter.shape, dtype=dtype, device=device)
            if parameter.dim() > 1:
                value.normal_(std=math.sqrt(len(parameter) / parameter.numel()))
            else:
                value.fill_(0.0 if name.endswith("bias") else 1.0)
            setattr(module, name, nn.Parameter(value, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            moved = torch.randn(buffer.shape, device=device) if buffer.is_meta else buffer.to(device)
            setattr(module, name, moved)


@torch.no_grad()
def compare(checkpoint: Checkpoint) -> list[str]:
    """Relative differences between packed and unpacked questions, and between unpacked ones together and one by one.

    The second is the rounding of bf16 alone: the same rows, in matrix products of other sizes.
    """
    model, processor = checkpoint.model, checkpoint.processor
    sample = new_sample(checkpoint, QUESTIONS, seed=0)
    alone = split(sample)
    groups = ([sample], alone, *([one] for one in alone))
    batches = [processor.collate(group).to(model.device) for group in groups]
    counts = count_terms(batches[0])  # the same in all forms
    outputs = [model(batch) for batch in batches]
    losses = [
        compute_losses(output, batch, model.segmenter, checkpoint.config.loss, counts).total
        for output, batch in zip(outputs, batches, strict=True)
    ]
    packed, plain, singly = (
        [torch.stack(losses[some]).sum(), *states_of(outputs[some])]
        for some in (slice(0, 1), slice(1, 2), slice(2, None))
    )
    names = ("loss", "prompts of the first stage", "vocabulary logits", "coarse masks")
    lines = []
    for name, ours, theirs, noise in zip(names, packed, plain, singly, strict=True):
        found, rounding = relative(ours, theirs), relative(noise, theirs)
        bar = f", bar {TOLERANCE:g}: {'pass' if found <= TOLERANCE else 'FAIL'}" if name == "loss" else ""
        lines.append(f"Packed against unpacked, bf16, {name}: {found:.1e} (unpacked one by one {rounding:.1e}{bar})")
    return lines


def states_of(outputs: Sequence[ChainOutput]) -> list[Tensor]:
    """First prompts, logits and coarse masks of the same questions in one or several outputs."""
    return [
        torch.cat([output.text.prompts[0] for output in outputs]),
        torch.cat([output.text.logits for output in outputs]).clamp(min=-100),  # the image token's is the lowest float
        torch.cat([output.coarse for output in outputs]),
    ]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference by the norm of the second."""
    return float((ours - theirs).double().norm() / theirs.double().norm())


def measure_prediction(checkpoint: Checkpoint, machine: Machine) -> Iterator[list[str]]:
    """Rows of the answers to 1 and 8 questions, as in an evaluation with given answers."""
    image = new_image(0)
    for questions in (1, 8):
        sample = new_sample(checkpoint, questions, seed=0)
        answer = partial(answer_all, checkpoint, image, new_queries(questions))
        answer()
        work = Work(
            f"predict, {questions} questions",
            "",
            images=1,
            tokens=count_tokens(checkpoint.processor.collate([sample])),
            flops=count_flops(answer),
            plan=plan_prediction(checkpoint, torch.bfloat16, questions=questions).total,
        )
        yield measure(answer, work, machine)


def answer_all(checkpoint: Checkpoint, image: RgbImage, queries: Sequence[Query]) -> object:
    """Masks of the answers at the size of the image."""
    return pixels(segment_image(checkpoint, image, queries, "teacher_forced"))


def measure_training(checkpoint: Checkpoint, learner: Learner, machine: Machine) -> Iterator[list[str]]:
    """Rows of a training step with each switch, and with combinations."""
    model, config = checkpoint.model, checkpoint.config
    flops: dict[bool, float] = {}
    for form in FORMS:
        if obstacle := find_obstacle(form, machine):
            yield ["train", " + ".join(form), f"not measured, {obstacle}", *[""] * (len(COLUMNS) - 3)]
            continue
        with tempfile.TemporaryDirectory() as folder:
            switch(model, form, Path(folder))
            planned = replace(config, train=replace(config.train, activation_checkpointing="checkpointing" in form))
            step, batch = new_step(checkpoint, learner, planned)
            step()
            cached = "cache" in form
            if cached not in flops:  # the first of these forms neither recomputes nor is compiled
                flops[cached] = count_flops(step)
            work = Work(
                f"train, {TRAINED_IMAGES} images x {QUESTIONS} questions",
                " + ".join(form) or "none",
                images=TRAINED_IMAGES,
                tokens=count_tokens(batch),
                flops=flops[cached],
                plan=plan_training(replace(checkpoint, config=planned)).total,
            )
            yield measure(step, work, machine)
    switch(model, (), Path())


def find_obstacle(form: Sequence[str], machine: Machine) -> str | None:
    """Why a form is not measured; None if it can be."""
    compiles = "compile" in form
    if compiles and not machine.compiles:
        return "--no-compile"
    if compiles:
        try:
            check_compiler()
        except ConfigError as error:
            return error.message
    late = time.perf_counter() > machine.deadline - (COMPILING if compiles else 0)
    return "out of time" if late else None


def switch(model: CoresModel, form: Sequence[str], folder: Path) -> None:
    """Turn the switches of a form on, and all others off."""
    net = model.mllm.net
    if "checkpointing" in form:
        net.activation_checkpointing_enable({"use_reentrant": False})
    else:
        net.activation_checkpointing_disable()
    model.embeddings = model.vision_cache = None
    if "cache" in form:
        caches = (EmbeddingCache(folder, name * 16, limit_bytes=10**10) for name in "01")
        model.embeddings, model.vision_cache = caches
    model.segmenter.image_encoder._compiled_call_impl = None
    if "compile" in form:
        compile_encoder(model)


def new_learner(checkpoint: Checkpoint) -> Learner:
    """The model with adapters, its losses and its optimiser."""
    model, config = checkpoint.model, checkpoint.config
    add_lora(model, LORA, checkpoint.processor.new_ids)
    choose_trainable(model, LORA, torch.bfloat16)
    model.to(model.device).train()
    return Learner(model, Objective(config), TorchEngine(model, Recipe(config), Group()))


def new_step(checkpoint: Checkpoint, learner: Learner, config: Config) -> tuple[Callable[[], object], Batch]:
    """A training step, and its batch; with pinned memory on CUDA, as the loader gives it."""
    samples = [new_sample(checkpoint, QUESTIONS, seed) for seed in range(TRAINED_IMAGES)]
    data = StepData([checkpoint.processor.collate(samples)], [])
    data = data.pin_memory() if checkpoint.model.device.type == "cuda" else data
    return lambda: train_step(learner, data, config), data.batches[0]


def count_tokens(batch: Batch) -> int:
    """Tokens of a batch without padding."""
    return int((batch.sequence_ids != PADDING).sum())


def count_flops(action: Callable[[], object]) -> float:
    """FLOPs of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())


def measure(action: Callable[[], object], work: Work, machine: Machine) -> list[str]:
    """Run an action after a warm-up. Returns a row: the median time and what follows from it, and the peak memory."""
    action()
    gc.collect()
    reset_peak(machine)
    seconds = statistics.median(run_timed(action, machine) for _ in range(machine.repetitions))
    peak = read_peak(machine)
    speed = None if work.flops is None else work.flops / seconds
    return [
        work.task,
        work.switches,
        f"{seconds:.3f}",
        f"{work.images / seconds:.2f}",
        f"{work.tokens / seconds:.0f}",
        "" if work.flops is None else f"{work.flops / 1e12:.3g}",
        "" if speed is None or machine.peak is None else f"{speed / machine.peak:.0%}",
        "" if peak is None else f"{peak / 2**30:.2f}",
        f"{work.plan / 2**30:.2f}",
    ]


def run_timed(action: Callable[[], object], machine: Machine) -> float:
    """Seconds of an action, until the device has finished."""
    if not machine.is_cuda:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started
    torch.cuda.synchronize(machine.device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    action()
    end.record()
    torch.cuda.synchronize(machine.device)
    return float(begin.elapsed_time(end)) / 1e3


def reset_peak(machine: Machine) -> None:
    """Begin to measure the peak of the memory."""
    if machine.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def read_peak(machine: Machine) -> int | None:
    """Peak memory in bytes; None where it cannot be measured."""
    if machine.is_cuda:
        return int(torch.cuda.max_memory_allocated(machine.device))
    return read_resident("VmHWM") - machine.resident if os.access("/proc/self/clear_refs", os.W_OK) else None


def read_resident(name: str) -> int:
    """Resident memory of this process in bytes: `VmRSS` now, `VmHWM` its peak; 0 if unknown."""
    path = Path("/proc/self/status")
    lines: Mapping[str, str] = (
        dict(line.split(":", 1) for line in path.read_text().splitlines()) if path.exists() else {}
    )
    return int(lines.get(name, "0 kB").split()[0]) * 1024


if __name__ == "__main__":
    main()
