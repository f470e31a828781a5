"""Every setting and its default, as frozen data that refuses nonsense. It never looks at the machine.

Presets in `presets/*.yaml` hold only what differs from the defaults here; `settings.py` reads them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cores_core.errors import ConfigError
from cores_core.prompts import Context, Conversation, PromptFormat, Wording


@dataclass(frozen=True)
class LanguageConfig:
    """Size of a Llama. `key_heads` is the number of key and value heads, None for as many as `heads`."""

    width: int = 192
    layers: int = 3
    heads: int = 6
    key_heads: int | None = None
    mlp: int = 512
    vocabulary: int = 3072
    positions: int = 2048
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        _check_sizes("language", self)
        _check_divides("language", "heads", self.heads, "width", self.width)
        _check_divides("language", "key_heads", self.key_heads or self.heads, "heads", self.heads)


@dataclass(frozen=True)
class VisionConfig:
    """Size of the MLLM's CLIP-style vision tower.

    `fit` says how an image meets its square: `pad` or `crop`. `read_layer` is the layer whose states the projector
    reads, counted from the end. `projector_layers` are 2, or 1 as in the first LLaVA. All these are for LLaVA 1 and 1.5
    alone; models of other families have sizes of their own. Of them `max_tokens` bounds the tokens of an image, as far
    as their image processors can (docs/models.md).
    """

    image_size: int = 112
    patch_size: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int | None = None
    fit: Literal["pad", "crop"] = "pad"
    read_layer: int = -1
    projector_layers: Literal[1, 2] = 2
    max_tokens: int = 576

    def __post_init__(self) -> None:
        if self.read_layer >= 0:
            raise ConfigError(f"`vision.read_layer` counts from the end and must be negative: {self.read_layer}")
        _check_sizes("vision", self, free=("read_layer",))
        _check_divides("vision", "heads", self.heads, "width", self.width)
        _check_divides("vision", "patch_size", self.patch_size, "image_size", self.image_size)


@dataclass(frozen=True)
class SamConfig:
    """Size of the SAM: image encoder (`width`, `depth`, ...) and prompt width C (256 in the released SAMs)."""

    image_size: int = 144
    patch_size: int = 8
    width: int = 128
    depth: int = 6
    heads: int = 2
    window: int = 6
    global_blocks: tuple[int, ...] = (2, 5)
    prompt_width: int = 64

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ConfigError(f"`sam.window` must not be negative: {self.window}")
        _check_sizes("sam", self, free=("window",))
        _check_divides("sam", "heads", self.heads, "width", self.width)
        _check_divides("sam", "patch_size", self.patch_size, "image_size", self.image_size)
        if self.prompt_width % 16:  # SAM's decoder halves it and has 8 heads
            raise ConfigError(f"`sam.prompt_width` must be a multiple of 16: {self.prompt_width}")


@dataclass(frozen=True)
class BaseConfig:
    """Pretrained weights that a model begins with, whose sizes replace `language`, `vision` and `sam`; None for none.

    `mllm` is a LLaVA or a model of another family (docs/models.md), by folder or hub id. `sam` is a `sam_vit_*.pth`, a
    folder or a hub id of SAM 2, 2.1 or 3, or one of vit_h, vit_l, vit_b, sam2.1-tiny, sam2.1-small, sam2.1-base-plus,
    sam2.1-large, sam3.
    """

    mllm: str | None = None
    sam: str | None = None


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the language model (model/lora.py). With rank 0 there are none, and everything trains.

    `vocabulary` says what of the token embedding and the vocabulary head trains beside them: both in `full`, as in the
    paper, or only the `rows` of new tokens, which takes far less memory.
    """

    rank: int = 0
    alpha: int = 16
    dropout: float = 0.05
    vocabulary: Literal["full", "rows"] = "full"

    def __post_init__(self) -> None:
        _check_not_negative("lora", self)
        if self.dropout >= 1:
            raise ConfigError(f"`lora.dropout` must be below 1: {self.dropout}")


@dataclass(frozen=True)
class ChainConfig:
    """The chains: 1 step (LISA), 2 (CoReS) or 3, with or without the token refiner.

    `reasons` makes answers reason in words before they name the tokens (LISACoT). `c1_supervision` is what C1 is told:
    nothing (the paper's best), the target, or a pseudo mask, the target's box enlarged by 20 % (Table S1).
    """

    steps: Literal[1, 2, 3] = 2
    refiner: bool = True
    reasons: bool = False
    c1_supervision: Literal["none", "gt", "pseudo"] = "none"

    def __post_init__(self) -> None:
        if self.steps == 1 and self.c1_supervision != "none":
            raise ConfigError("`chain.c1_supervision` needs two steps", hint="set chain.steps=2")


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts. Defaults: the best ratios of Table S2 (mask : text = 2 : 1, BCE : DICE = 2 : 3).

    `coarse` is the weight of C1's own mask loss, beside the final mask's, where `chain.c1_supervision` gives it one.
    """

    text: float = 1.0
    mask: float = 2.0
    bce: float = 0.4
    dice: float = 0.6
    coarse: float = 0.1

    def __post_init__(self) -> None:
        _check_not_negative("loss", self)


@dataclass(frozen=True)
class MixtureConfig:
    """How often each group of data sets is drawn from, in proportion; the sets of a group share its weight evenly.

    A set that stands twice in `data` has twice the share; sets of parts count as semantic. Defaults: LISA's
    9 : 3 : 1, and 3 for text, which the paper leaves out of `data`. With a single set, or `even`, every image is shown
    once an epoch instead. `explanatory` is the share of questions with a known answer in words that are answered by it
    alone. `exclude_val` leaves out images that a prepared val or test split asks about.
    """

    semantic: float = 9.0
    referring: float = 3.0
    reasoning: float = 1.0
    rendered: float = 1.0
    custom: float = 1.0
    text: float = 3.0
    explanatory: float = 0.1
    even: bool = False
    exclude_val: bool = False

    def __post_init__(self) -> None:
        _check_not_negative("mixture", self)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults: the paper's optimiser (appendix A); `steps` counts optimiser steps.

    AdamW's `learning_rate` decays over the last `decay_share` of the steps after the warm-up. `start_from` names a
    checkpoint whose weights a run begins with, in place of random ones. A step shows `images_per_step` images in
    all, shared among processes, each of which reads `images_at_once` (None: all its share) before it goes on: the
    same run on any number of processes. Images are shrunk to `longest_side`; `mirror` shows every other one
    mirrored; `keep_images` holds images in memory. With precision `bf16`, the encoders and the language model run
    in bfloat16 under autocast; weights and mask head stay in float32. `checkpoint_activations` computes the
    language model's activations twice, to hold fewer; `compile` compiles SAM's image encoder, a minute at the start
    for less time a step. A sample that cannot be used is skipped; after `most_skipped` of them the run stops.
    `wandb` is a project of Weights & Biases that gets what TensorBoard gets. `embedding_cache` is a folder that
    keeps what a frozen SAM image encoder makes of each image, in bfloat16, until it holds `embedding_cache_gb`
    (10^9 bytes); processes and runs may share it. SAM with images of 1024 pixels: 2 MB each.
    """

    start_from: str | None = None
    steps: int = 5000
    images_per_step: int = 2
    images_at_once: int | None = None
    queries_per_image: int = 3
    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay_share: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    precision: Literal["fp32", "bf16"] = "fp32"
    longest_side: int | None = None
    mirror: bool = False
    keep_images: bool = False
    gradient_clip: float = 1.0
    seed: int = 0
    log_every: int = 10
    save_every: int = 250
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_images: int = 64
    workers: int = 1
    most_skipped: int = 100
    wandb: str | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    embedding_cache: str | None = None
    embedding_cache_gb: float = 100.0

    def __post_init__(self) -> None:
        _check_not_negative("train", self)
        counts = ("steps", "images_per_step", "queries_per_image")
        _check_positive("train", self, (*counts, "log_every", "save_every", "keep_checkpoints", "validate_every"))


@dataclass(frozen=True)
class ScratchConfig:
    """Training from random weights (train/scratch/), which the paper does not do. With these defaults it is off.

    It has three phases, each with a warm-up and a decay of its own; the third is what `sam_steps` and `align_steps`
    leave of `train.steps`.
    """

    prototype_loss: float = 0.0
    """Weight of the prototype loss, which the first two phases need."""
    sam_steps: int = 0
    """Steps of the first phase, which trains SAM alone, with prototypes as its prompts."""
    sam_images: int = 8
    """Images of each step of the first phase, shared among processes."""
    sam_queries: int = 1
    """Most prompts of an image in the first phase."""
    align_steps: int = 0
    """Steps of the second phase, which trains the MLLM alone to give the prototypes."""
    joint_rate: float = 1.0
    """Factor on all learning rates in the third phase, which trains the whole model."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the weight matrices of hidden layers, AdamW for everything else."""
    muon_learning_rate: float = 4e-3
    """Peak learning rate of Muon; that of AdamW is `train.learning_rate`."""
    embedding_rate: float = 1.0
    """Factor on AdamW's learning rate for embedding tables, each row of which gets few gradients."""
    word_dropout: float = 0.0
    """Probability of leaving out a word of a question."""

    def __post_init__(self) -> None:
        _check_not_negative("scratch", self)
        _check_positive("scratch", self, ("sam_images", "sam_queries"))
        if self.word_dropout >= 1:
            raise ConfigError(f"`scratch.word_dropout` must be below 1: {self.word_dropout}")
        for name in ("sam_steps", "align_steps"):
            if getattr(self, name) and not self.prototype_loss:
                raise ConfigError(f"`scratch.{name}` needs `scratch.prototype_loss`", hint=f"set scratch.{name}=0")


@dataclass(frozen=True)
class EngineConfig:
    """What turns losses into steps (train/engine.py, train/zero.py).

    `kind`: plain PyTorch, DeepSpeed, or `auto`, DeepSpeed where several processes train with AdamW. `stage` is ZeRO's:
    what is divided among processes (1: moments, 2: gradients too, 3: weights too). `offload` holds moments in the CPU's
    memory.
    """

    kind: Literal["auto", "torch", "deepspeed"] = "auto"
    stage: Literal[0, 1, 2, 3] = 2
    offload: bool = False


@dataclass(frozen=True)
class Config:
    """All settings of a model and its training."""

    base: BaseConfig = field(default_factory=BaseConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    context: Context = "fixed"
    wording: Wording = "cores"
    conversation: Conversation = "llava_v1"
    loss: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    data: tuple[str, ...] = ("partworld",)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.wording == "released" and (self.chain.steps == 3 or self.chain.reasons):
            raise ConfigError("no release words such answers", hint="set wording=cores")
        if self.lora.rank and not (self.train.start_from or (self.base.mllm and self.base.sam)):
            hint = "set base.mllm and base.sam, or start --from a model"
            raise ConfigError("`lora.rank` keeps the weights of a model as they are, and there is none", hint=hint)

    @property
    def prompt(self) -> PromptFormat:
        """The prompt format that this model is trained with."""
        return PromptFormat(
            steps=self.chain.steps,
            context=self.context,
            wording=self.wording,
            conversation=self.conversation,
            reasons=self.chain.reasons,
        )


def _check_sizes(section: str, config: Any, free: tuple[str, ...] = ()) -> None:
    """All whole numbers of a section are positive, but for those in `free`."""
    sizes = [entry.name for entry in fields(config) if isinstance(getattr(config, entry.name), int)]
    _check_positive(section, config, [name for name in sizes if name not in free])


def _check_positive(section: str, config: Any, names: Iterable[str]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"`{section}.{name}` must be at least 1: {getattr(config, name)}")


def _check_divides(section: str, part: str, divisor: int, whole: str, number: int) -> None:
    if number % divisor:
        raise ConfigError(f"`{section}.{part}` ({divisor}) must divide `{section}.{whole}` ({number})")


def _check_not_negative(section: str, config: Any) -> None:
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, int | float) and not value >= 0:  # not a number is no good either
            raise ConfigError(f"`{section}.{entry.name}` must not be negative: {value}")
