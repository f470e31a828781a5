"""Time and memory of a training step, an evaluation and a prediction, with and without sharing work between questions.

    python benchmarks/speed.py --preset medium

`packed` is the default, `kept` adds --cache-embeddings with all features cached. `unshared` has a sample per question,
which repeats the prefix and both encoders. `plain` is `unshared` with segment-anything's own forward of both SAM's
encoder and its mask decoder. `as released` is `plain` as the released code runs it: one pass of SAM's encoder per
image, masks decoded image by image and upsampled with their padding, all maps of full size in the graph, and in
training activation checkpointing of the language model.
Every row of a table is measured in a new single-threaded process: the median of some repetitions after a warm-up, and
the peak resident memory beyond that of the loaded model. Ratios are of CPU seconds, which depend less on other load of
the machine. Training is LoRA on two images per step with a frozen SAM encoder. Generated answers and `cores predict`
are measured with the embedded model, which is trained to answer. Prints Markdown.
"""

import argparse
import atexit
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor
from torch.nn import functional

from cores_core.config import Config, LoraConfig
from cores_core.data.questions.bank import load_bank
from cores_core.model import losses
from cores_core.model.build import Parts, build_model, build_processor, build_tokenizer
from cores_core.model.checkpoint import EMBEDDED, Checkpoint, load_checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.embeddings import EmbeddingCache
from cores_core.model.inference import Protocol, Segmentation, segment_image
from cores_core.model.lora import add_lora, choose_trainable
from cores_core.model.processor import Batch
from cores_core.model.sams.attention import RowAttention
from cores_core.model.sams.sam1 import Sam1
from cores_core.model.segmenter import Features, Segmenter
from cores_core.predict import Predictor
from cores_core.prompts import render_turn
from cores_core.runtime import Group, seed_everything, set_up_cpu
from cores_core.sample import ImageSize, Query, RgbImage, Sample
from cores_core.settings import load_config
from cores_core.train.engine import TorchEngine
from cores_core.train.loop import Learner, StepData, train_step
from cores_core.train.recipe import Objective, Recipe

PACKED, KEPT, UNSHARED, PLAIN, RELEASED = "packed", "kept", "unshared", "plain", "as released"
STOCK, BY_ROWS, COMPILED = "stock attention", "attention by rows", "by rows, compiled"
SIZE_HW = (480, 640)
TRAINED_IMAGES = 2
LORA = LoraConfig(rank=8, alpha=16)
FORMS: Mapping[str, Sequence[str]] = {
    "train": (PACKED, KEPT, UNSHARED, PLAIN, RELEASED),
    "teacher_forced": (PACKED, UNSHARED, PLAIN, RELEASED),
    "generate": (PACKED, UNSHARED, PLAIN),
}
RATIOS: Sequence[tuple[str, int, str, str, float | None]] = (
    ("train", 3, RELEASED, PACKED, 2.3),
    ("train", 3, RELEASED, KEPT, 3.3),
    ("train", 3, PLAIN, PACKED, 2.0),
    ("train", 3, UNSHARED, PACKED, None),
    ("teacher_forced", 1, RELEASED, PACKED, 2.1),
    ("teacher_forced", 8, RELEASED, PACKED, 2.9),
    ("teacher_forced", 8, PLAIN, PACKED, 4.0),
    ("teacher_forced", 8, UNSHARED, PACKED, None),
)
"""Task, questions, the slower and the faster form, and the target for their ratio of CPU seconds."""
MEMORY_RATIOS: Mapping[str, float | None] = {RELEASED: 0.5, PLAIN: 0.6, UNSHARED: None}
"""Targets for the peak memory of a training step with 3 questions: packed against others."""


@dataclass(frozen=True)
class Cell:
    """One row of a table: the task, the model, the number of questions per image, and how they are processed."""

    task: str
    preset: str
    questions: int
    form: str = PACKED
    repetitions: int = 3


@dataclass(frozen=True)
class Cost:
    """Median wall-clock and CPU seconds, and peak memory beyond the loaded model in MB."""

    seconds: float
    cpu_seconds: float
    memory: float


Action = Callable[[], object]


def main() -> None:
    """Print the selected tables and ratios; with --cell, used internally, measure one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="medium", choices=("tiny", "medium"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="leave out 8 trained questions, `unshared` and `plain`")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(asdict(measure(Cell(**json.loads(options.cell))))))
        return
    costs: dict[Cell, Cost] = {}
    for title, cells in list_tables(options.preset, options.repetitions, options.short).items():
        print(f"\n### {title}\n\n| questions | read | seconds | CPU seconds | peak MB |\n|---|---|---|---|---|")
        for cell in cells:
            costs[cell] = cost = run_cell(cell)
            numbers = f"{cost.seconds:.2f} | {cost.cpu_seconds:.2f} | {cost.memory:.0f}"
            print(f"| {cell.questions} | {cell.form} | {numbers} |", flush=True)
    print_ratios({replace(cell, repetitions=0): cost for cell, cost in costs.items()}, options.preset)


def list_tables(preset: str, repetitions: int, short: bool) -> dict[str, list[Cell]]:
    """All measurements, by table."""
    steps = {
        f"Training step of `{preset}`, {TRAINED_IMAGES} images": ("train", preset),
        f"Evaluation of an image by `{preset}`, protocol teacher_forced": ("teacher_forced", preset),
        f"Evaluation of an image by `{EMBEDDED}`, protocol generate": ("generate", EMBEDDED),
    }
    tables = {
        title: [
            Cell(task, model, questions, form, repetitions)
            for questions in (1, 3, 8)
            for form in FORMS[task]
            if fits(task, model, questions, form, short)
        ]
        for title, (task, model) in steps.items()
    }
    encoders = [Cell("encode", preset, 1, form, repetitions) for form in (STOCK, BY_ROWS, COMPILED)]
    tables[f"SAM's image encoder of `{preset}`, an image"] = encoders
    warm = [Cell("predict", EMBEDDED, questions, PACKED, 5 * repetitions) for questions in (1, 2, 8)]
    cold = [Cell("command", EMBEDDED, 1, PACKED, repetitions)]
    return tables | {
        f"Predictor of `{EMBEDDED}`, loaded": warm,
        "Command `cores predict` from its start, all of its memory": cold,
    }


def fits(task: str, preset: str, questions: int, form: str, short: bool) -> bool:
    """Whether a row is informative (one question shares nothing), and affordable (not 16 images of 1024 pixels)."""
    if form in (UNSHARED, PLAIN) and (short or (task, questions) == ("train", 8)):
        return not short and preset == EMBEDDED
    if short and (task, questions) == ("train", 8):
        return False
    return questions > 1 or form in (PACKED, KEPT, RELEASED)


def print_ratios(costs: Mapping[Cell, Cost], preset: str) -> None:
    """Print ratios of CPU seconds and memory, with the targets of `medium`."""

    def find(task: str, model: str, questions: int, form: str = PACKED) -> Cost:
        return costs[Cell(task, model, questions, form, repetitions=0)]

    print("\n| ratio | found | bar | |\n|---|---|---|---|")
    known = {(cell.task, cell.questions, cell.form) for cell in costs}  # --short leaves out some
    for task, questions, form, ours, bar in (row for row in RATIOS if row[:3] in known):
        slow, fast = (find(task, preset, questions, name) for name in (form, ours))
        name, least = f"{task}, {questions} questions: {form} / {ours}", bar if preset != EMBEDDED else None
        print_ratio(name, slow.cpu_seconds / fast.cpu_seconds, least=least)
    for form, bar in ((form, bar) for form, bar in MEMORY_RATIOS.items() if ("train", 3, form) in known):
        packed, plain = (find("train", preset, 3, name) for name in (PACKED, form))
        most = bar if preset != EMBEDDED else None
        print_ratio(f"memory of train, 3 questions: packed / {form}", packed.memory / plain.memory, most=most)
    for task, model in (("predict", EMBEDDED), ("teacher_forced", preset)):
        first, all_8 = (find(task, model, questions).cpu_seconds for questions in (1, 8))
        most = 0.05 if task == "predict" else None
        print_ratio(f"{task} by {model}: each further question / the first", (all_8 - first) / 7 / first, most=most)


def print_ratio(name: str, ratio: float, least: float | None = None, most: float | None = None) -> None:
    """Print one row, with the minimum or maximum that the ratio must meet."""
    passed = (least is None or ratio >= least) and (most is None or ratio <= most)
    bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""
    print(f"| {name} | {ratio:.2f} | {bar} | {'' if not bar else 'pass' if passed else 'fail'} |")


def run_cell(cell: Cell) -> Cost:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--cell", json.dumps(asdict(cell))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def measure(cell: Cell) -> Cost:
    """Measure in this process, which must do nothing else."""
    torch.set_num_threads(1)
    set_up_cpu()
    if cell.form in (STOCK, PLAIN, RELEASED):
        run_stock_sam()
    action, who = TASKS[cell.task](cell), resource.RUSAGE_SELF
    loaded = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if cell.task == "command":
        loaded, who = 0, resource.RUSAGE_CHILDREN
    seconds, cpu_seconds = [], []
    for _ in range(1 + cell.repetitions):
        started, used = time.perf_counter(), cpu_time(who)
        action()
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(cpu_time(who) - used)
    peak = resource.getrusage(who).ru_maxrss * 1024
    return Cost(statistics.median(seconds[1:]), statistics.median(cpu_seconds[1:]), (peak - loaded) / 1e6)


def cpu_time(who: int) -> float:
    """CPU seconds used by this process or its children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def train(cell: Cell) -> Action:
    """A complete training step: forward, losses, backward, update."""
    checkpoint = load(cell.preset)
    model, config = checkpoint.model, checkpoint.config
    add_lora(model, LORA, checkpoint.processor.new_ids)
    choose_trainable(model, LORA)
    learner = Learner(model.train(), Objective(config), TorchEngine(model, Recipe(config), Group()))
    samples = [new_sample(checkpoint, cell.questions, seed) for seed in range(TRAINED_IMAGES)]
    if cell.form in (UNSHARED, PLAIN, RELEASED):
        samples = [alone for sample in samples for alone in split(sample)]
    if cell.form == RELEASED:
        encode_once(model, cell.questions)
        model.mllm.net.activation_checkpointing_enable({"use_reentrant": False})
        losses.checkpoint = lambda compute, logits, **_: compute(logits)  # type: ignore[attr-defined, assignment]
        losses.CPU_PIXELS = 2**40  # type: ignore[misc]
        losses.Segmenter.upsample = upsample_with_padding  # type: ignore[method-assign]
    if cell.form == KEPT:
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder)
        model.embeddings, model.vision_cache = (
            EmbeddingCache(Path(folder), name * 16, limit_bytes=10**9) for name in "01"
        )
    return lambda: train_step(learner, StepData([checkpoint.processor.collate(samples)], []), config)


def evaluate(cell: Cell) -> Action:
    """Answer all questions of an image, as in an evaluation."""
    checkpoint, queries = load(cell.preset), new_queries(cell.questions)
    protocol: Protocol = "teacher_forced" if cell.task == "teacher_forced" else "generate"
    image, model = new_image(0), checkpoint.model
    if cell.form == PACKED:
        return lambda: pixels(segment_image(checkpoint, image, queries, protocol))

    def ask_one_by_one() -> None:
        remembered: list[Features] = []

        def encode(batch: Batch) -> Features:
            if not remembered or cell.form != RELEASED:
                remembered[:] = [CoresModel.encode(model, batch)]
            return remembered[0]

        model.encode = encode  # type: ignore[method-assign]
        for query in queries:
            pixels(segment_image(checkpoint, image, [query], protocol))

    return ask_one_by_one


def pixels(found: Sequence[Segmentation]) -> object:
    """Compute the full-resolution masks, as an evaluation does."""
    return [(answer.coarse, answer.refined) for answer in found]


def encode(cell: Cell) -> Action:
    """Encode an image with SAM."""
    segmenter = load(cell.preset).model.segmenter
    if cell.form == COMPILED:
        segmenter.image_encoder.compile()
    side = segmenter.frame.side
    image = torch.randn(1, 3, side, side)
    return torch.no_grad()(lambda: segmenter.encode(image))


def predict(cell: Cell) -> Action:
    """Predict masks with a loaded predictor."""
    predictor, image, queries = Predictor(load(cell.preset)), new_image(0), new_queries(cell.questions)
    return lambda: [answer.mask for answer in predictor.predict_many(image, queries)]


def run_command(cell: Cell) -> Action:
    """`cores predict`, from the start of Python to its last file."""
    folder = tempfile.TemporaryDirectory()
    image = Path(folder.name) / "image.png"
    Image.fromarray(new_image(0)).save(image)
    questions = [query.text for query in new_queries(cell.questions)]
    command = [sys.executable, "-m", "cores_cli.app", "predict", str(image), *questions, "--output"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run([*command, folder.name], check=True, capture_output=True, env=one_thread)


TASKS: Mapping[str, Callable[[Cell], Action]] = {
    "train": train,
    "teacher_forced": evaluate,
    "generate": evaluate,
    "encode": encode,
    "predict": predict,
    "command": run_command,
}


def load(preset: str) -> Checkpoint:
    """The embedded model, or one of the preset's sizes with random weights."""
    if preset == EMBEDDED:
        return load_checkpoint(EMBEDDED)
    config: Config = load_config(preset)
    parts = Parts(config, build_tokenizer(list_questions(), config.language.vocab_size), {})
    processor = build_processor(parts)
    seed_everything(0)
    return Checkpoint(build_model(parts, processor).eval(), processor, config, about={})


def list_questions() -> list[str]:
    """All training questions of the bank."""
    groups = [group for category in load_bank().values() for group in (category.whole, *category.parts.values())]
    return [text for group in groups for text in group.questions["train"]]


def new_queries(count: int) -> list[Query]:
    """Questions of the bank, at even intervals."""
    questions = list_questions()
    spread = islice(questions[:: len(questions) // count], count)
    return [Query(text.replace("{object}", "animal")) for text in spread]


def new_image(seed: int) -> RgbImage:
    """Noise of the size of a photograph."""
    return np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


def new_sample(checkpoint: Checkpoint, questions: int, seed: int) -> Sample:
    """An image with questions about a box in it."""
    turns = tuple(render_turn(query, checkpoint.processor.prompt) for query in new_queries(questions))
    mask = np.zeros(SIZE_HW, dtype=np.bool_)
    mask[100:300, 200:400] = True
    masks, ignores = (mask,) * questions, (None,) * questions
    return Sample(new_image(seed), turns, masks=masks, ignores=ignores, key=str(seed))


def split(sample: Sample) -> Sequence[Sample]:
    """Split a sample into one per question."""
    turns = zip(sample.turns, sample.masks, strict=True)
    return [replace(sample, turns=(turn,), masks=(mask,), ignores=(None,)) for turn, mask in turns]


def encode_once(model: CoresModel, questions: int) -> None:
    """Encode each image of an unshared batch once."""

    def encode(batch: Batch) -> Features:
        once = replace(batch, sam_pixels=batch.sam_pixels[::questions])
        return tuple(level.repeat_interleave(questions, dim=0) for level in CoresModel.encode(model, once))

    model.encode = encode  # type: ignore[method-assign]


def run_stock_sam() -> None:
    """Use segment-anything's own forward of SAM's encoder and mask decoder."""
    RowAttention.use_rel_pos = True
    RowAttention.forward = Attention.forward
    Sam1.decode = decode_as_released  # type: ignore[method-assign]


def decode_as_released(
    sam: Sam1, features: Features, prompts: Tensor, mask_input: Tensor | None, images: Tensor | None = None
) -> Tensor:
    """`Sam1.decode` by the stock modules, for the queries of one image at a time."""
    numbers = list(range(len(prompts))) if images is None else images.tolist()
    masks: list[Tensor] = []
    for image in sorted(set(numbers)):
        some = [query for query, number in enumerate(numbers) if number == image]  # in order, image by image
        _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None if mask_input is None else mask_input[some])
        masks += sam.mask_decoder(
            image_embeddings=features[0][image : image + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[some, None],
            dense_prompt_embeddings=dense.expand(len(some), -1, -1, -1),
            multimask_output=False,
        )[:1]
    return torch.cat(masks)


def upsample_with_padding(segmenter: Segmenter, logits: Tensor, size: ImageSize) -> Tensor:
    """`Segmenter.upsample` as `Sam.postprocess_masks`."""
    side = segmenter.frame.side
    full = functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    full = full[..., : size.resized_hw[0], : size.resized_hw[1]]
    return functional.interpolate(full, size.original_hw, mode="bilinear", align_corners=False)[:, 0]


if __name__ == "__main__":
    main()
