"""Write folders in the format of the released weights, of any size, with random values or as sparse files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from cores_core import prompts
from cores_core.config import LanguageConfig, SamConfig, VisionConfig
from cores_core.model.cores import CoresModel
from cores_core.model.families.llava import build_llava
from cores_core.model.sams.sam1 import build_sam1
from cores_core.model.weights.names import SECOND_LAYER, released_name
from cores_core.model.weights.stand_in import LLAVA_SIZES, SAM_SIZES

LLAMA_7B, LLAMA_13B = (
    replace(LLAVA_SIZES[name][0], vocab_size=32004) for name in ("LLaVA-Lightning-7B-v1-1", "LLaVA-13B-v1-1")
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a release: its LLaMA (with the vocabulary size of the files), its CLIP, its SAM."""

    language: LanguageConfig
    vision: VisionConfig = LLAVA_SIZES["LLaVA-Lightning-7B-v1-1"][1]
    sam: SamConfig = SAM_SIZES["vit_h"]


def write_release(folder: Path, sizes: Sizes, shards: int, ending: str) -> int:
    """Write random bfloat16 values in `.safetensors` or `.bin` shards. Returns the size of the weights in bytes."""
    folder.mkdir(parents=True)
    shapes = list_tensors(sizes)
    names = list(shapes)
    places = {name: f"shard-{number * shards // len(names)}.{ending}" for number, name in enumerate(names)}
    for shard in sorted(set(places.values())):
        tensors = {name: torch.randn(shapes[name].shape).bfloat16() for name in names if places[name] == shard}
        if ending == "safetensors":
            save_file(tensors, folder / shard)
        else:
            torch.save(tensors, folder / shard)
    kind = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    write_companions(folder, sizes)
    return sum(path.stat().st_size for path in folder.glob("shard-*"))


def write_hollow_release(folder: Path, sizes: Sizes, shards: int = 4) -> int:
    """Write sparse files with names and shapes but no values, which need no disk space. Returns its parameters."""
    folder.mkdir(parents=True)
    shapes = list_tensors(sizes)
    names, places = list(shapes), {}
    for shard in range(shards):
        header, end = {}, 0
        for name in names[shard::shards]:
            begin, end = end, end + 2 * shapes[name].numel()
            header[name] = {"dtype": "BF16", "shape": list(shapes[name].shape), "data_offsets": [begin, end]}
            places[name] = f"shard-{shard}.safetensors"
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / f"shard-{shard}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    write_companions(folder, sizes)
    return sum(tensor.numel() for tensor in shapes.values())


def list_tensors(sizes: Sizes) -> dict[str, Tensor]:
    """Tensors on the meta device by their names in the releases' format."""
    with torch.device("meta"):
        mllm = build_llava(sizes.language, sizes.vision, image_token_id=0)
        model = CoresModel(mllm, build_sam1(sizes.sam), chain_ids=(1, 2), refiner=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(SECOND_LAYER)}
    return {released_name(name, projector_layers=1): tensor for name, tensor in state.items()}


def write_companions(folder: Path, sizes: Sizes) -> None:
    """Write the files besides the weights: config.json, the CLIP's config, a tokenizer with a few pieces."""
    language, vision = sizes.language, sizes.vision
    tree = {
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "mm_vision_tower": "clip",
    }
    clip = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
    }
    (folder / "clip").mkdir()
    (folder / "clip/config.json").write_text(json.dumps(clip))
    (folder / "config.json").write_text(json.dumps(tree))
    text = folder / "text.txt"
    text.write_text("which part of the fish steers it\nthe quick brown fox jumps over the lazy dog\n" * 50)
    prefix = str(folder / "tokenizer")
    SentencePieceTrainer.train(input=str(text), model_prefix=prefix, vocab_size=60, model_type="bpe", minloglevel=2)
    tokens = [*prompts.REFERENCE_SPELLING.values(), prompts.IMAGE_START, prompts.IMAGE_END]
    added = {token: language.vocab_size - len(tokens) + number for number, token in enumerate(tokens)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
