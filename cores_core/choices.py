"""Names that options and arguments choose from. Imports nothing else, so that `cores --help` is quick."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
"""Where to train: `auto` takes CUDA, then MPS, then the CPU."""
ModelDevice = Literal[Device, "spread"]
"""Where to run a model: `spread` divides the language model among all CUDA devices."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Precision of a model's weights: `auto` takes bfloat16 on CUDA, else float32."""
Quantization = Literal["4bit", "8bit"]
"""Precision of the language model's linear layers (bitsandbytes, CUDA)."""
Protocol = Literal["generated", "given"]
"""How an answer is obtained: decoded by the model, or teacher-forced from the answer template."""
Format = Literal["files", "jsonl", "coco", "labelme", "label-studio", "yolo", "palette", "cutout"]
"""What `cores predict` writes: mask, overlay and JSON of each answer; or what other tools read (docs/formats.md)."""
ReleasedConversation = Literal["llava_v1", "llava_v0", "llava_llama_2"]
"""Chat templates of the research releases; the first is their default."""
