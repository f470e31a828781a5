"""All settings as frozen, validated dataclasses, each documented beside it. Independent of the hardware.

Presets in `presets/*.yaml` hold only what differs from the defaults here; `settings.py` reads them.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Lt

from cores_core.errors import ConfigError
from cores_core.limits import Fraction, NotNegative, Positive, Probability, Weight, check_divides, check_limits
from cores_core.prompts import Context, Conversation, PromptFormat, Wording


class Section:
    """Options by which pydantic makes the JSON schema of a dataclass (`config_schema`)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True)
class LanguageConfig(Section):
    """Size of the language model, a Llama. Only for LLaVA; models of other families have sizes of their own."""

    hidden_size: Positive = 192
    """Width of the hidden states."""
    num_hidden_layers: Positive = 3
    """Number of layers."""
    num_attention_heads: Positive = 6
    """Attention heads; a divisor of `width`."""
    num_key_value_heads: Positive | None = None
    """Heads of keys and values; a divisor of `heads`, null for as many."""
    intermediate_size: Positive = 512
    """Hidden width of the MLPs."""
    vocab_size: Positive = 3072
    """Number of tokens in the vocabulary."""
    max_position_embeddings: Positive = 2048
    """Most tokens of a sequence."""
    rms_norm_eps: Weight = 1e-6
    """Epsilon of the RMS norms."""
    rope_theta: Weight = 10000.0
    """Base of the rotary position embedding."""

    def __post_init__(self) -> None:
        check_limits("language", self)
        check_divides(
            "language.num_attention_heads", self.num_attention_heads, "language.hidden_size", self.hidden_size
        )
        check_divides(
            "language.num_key_value_heads",
            self.num_key_value_heads or self.num_attention_heads,
            "language.num_attention_heads",
            self.num_attention_heads,
        )


@dataclass(frozen=True)
class VisionConfig(Section):
    """Size of the MLLM's vision tower, a CLIP; only for LLaVA, but for `max_tokens`."""

    image_size: Positive = 112
    """Side of the square that images are brought to, in pixels."""
    patch_size: Positive = 16
    """Side of a patch in pixels; a divisor of `image_size`."""
    hidden_size: Positive = 128
    """Width of the hidden states."""
    num_hidden_layers: Positive = 4
    """Number of layers."""
    num_attention_heads: Positive = 4
    """Attention heads; a divisor of `width`."""
    intermediate_size: Positive | None = None
    """Hidden width of the MLPs; null for four times `width`."""
    fit: Literal["pad", "crop"] = "pad"
    """How an image becomes a square: padded to it, or its centre cropped."""
    feature_layer: Annotated[int, Lt(0)] = -1
    """Layer whose states the projector takes, counted from the end; -2 in the released LLaVAs."""
    projector_layers: Literal[1, 2] = 2
    """Layers of the projector: 1 in the first LLaVA, 2 since LLaVA 1.5."""
    max_tokens: Positive = 576
    """Most tokens of an image, for models of all other families (docs/models.md)."""

    def __post_init__(self) -> None:
        check_limits("vision", self)
        check_divides("vision.num_attention_heads", self.num_attention_heads, "vision.hidden_size", self.hidden_size)
        check_divides("vision.patch_size", self.patch_size, "vision.image_size", self.image_size)


@dataclass(frozen=True)
class SamConfig(Section):
    """Size of the SAM; only for SAM 1."""

    image_size: Positive = 144
    """Side of the square that images are padded to, in pixels; 1024 in the released SAMs."""
    patch_size: Positive = 8
    """Side of a patch in pixels; a divisor of `image_size`."""
    embed_dim: Positive = 128
    """Width of the image encoder."""
    depth: Positive = 6
    """Blocks of the image encoder."""
    num_heads: Positive = 2
    """Attention heads of the image encoder; a divisor of `width`."""
    window_size: NotNegative = 6
    """Side of the attention windows in patches; 0 for global attention in all blocks."""
    global_attn_indexes: tuple[int, ...] = (2, 5)
    """Blocks with global attention, from 0."""
    prompt_embed_dim: Positive = 64
    """Width C of prompts and image embeddings, a multiple of 16; 256 in the released SAMs."""
    predicts_iou: bool = False
    """Whether the head that predicts a mask's IoU was trained: true for released SAMs, false from random weights."""

    def __post_init__(self) -> None:
        check_limits("sam", self)
        check_divides("sam.num_heads", self.num_heads, "sam.embed_dim", self.embed_dim)
        check_divides("sam.patch_size", self.patch_size, "sam.image_size", self.image_size)
        if self.prompt_embed_dim % 16:  # SAM's decoder halves it and has 8 heads
            raise ConfigError(f"`sam.prompt_embed_dim` must be a multiple of 16: {self.prompt_embed_dim}")


@dataclass(frozen=True)
class BaseConfig(Section):
    """Pretrained weights to start from. Their sizes replace those in `language`, `vision` and `sam`."""

    mllm: str | None = None
    """Folder or hub id of a LLaVA or of a model of another family (docs/models.md); null for random weights."""
    sam: str | None = None
    """vit_h, vit_l, vit_b, sam2.1-tiny, sam2.1-small, sam2.1-base-plus, sam2.1-large, sam3, a `sam_vit_*.pth`, or a
    folder or hub id of a SAM 2, 2.1 or 3; null for random weights."""


@dataclass(frozen=True)
class LoraConfig(Section):
    """Low-rank adapters on the language model (model/lora.py)."""

    rank: NotNegative = 0
    """Rank of the adapters; 0 for none, and everything trains. The paper: 8."""
    alpha: NotNegative = 16
    """Adapters are scaled by `alpha` / `rank`. Appendix A."""
    dropout: Probability = 0.05
    """Dropout before the adapters. Appendix A."""
    vocabulary: Literal["full", "rows"] = "full"
    """What trains of token embedding and vocabulary head: all (the paper), or rows of new tokens, for less memory."""

    def __post_init__(self) -> None:
        check_limits("lora", self)


@dataclass(frozen=True)
class ChainConfig(Section):
    """The chain of tokens by which the language model prompts SAM."""

    stages: Literal[1, 2, 3] = 2
    """Tokens of the chain, one mask each: 1 (LISA), 2 (CoReS) or 3."""
    refiner: bool = True
    """Token refiner: adds image features under the coarse mask to the next token's prompt; needs two tokens."""
    chain_of_thought: bool = False
    """Whether answers contain a reasoning text before the tokens (LISACoT, Table S1)."""
    rejects: bool = False
    """Whether "It is not in the image." is an answer: to expressions without a target, and see `mixture.no_target`."""
    reject_below: Fraction = 0.0
    """Predicted IoU below which an answer is a rejection, whatever its text; 0 for none. Needs a head that predicts it,
    see `sam.predicts_iou`, and is set by `cores checkpoint calibrate`."""
    c1_supervision: Literal["none", "gt", "pseudo"] = "none"
    """Target of the coarse mask (Table S1): none, the target mask, or its box, 20 % larger on each side."""

    def __post_init__(self) -> None:
        check_limits("chain", self)
        if self.stages == 1 and self.c1_supervision != "none":
            raise ConfigError("`chain.c1_supervision` needs two stages", hint="set chain.stages=2")


@dataclass(frozen=True)
class LossWeights(Section):
    """Weights of the losses: text * CE + mask * (bce * BCE + dice * DICE). Defaults: the best ratios of Table S2."""

    text: Weight = 1.0
    """Weight of the cross entropy of answer tokens."""
    mask: Weight = 2.0
    """Weight of the losses of the final mask."""
    bce: Weight = 0.4
    """Weight of BCE among the mask losses."""
    dice: Weight = 0.6
    """Weight of DICE among the mask losses."""
    coarse: Weight = 0.1
    """Weight of the losses of the coarse mask, where `chain.c1_supervision` gives it a target."""

    def __post_init__(self) -> None:
        check_limits("loss", self)


@dataclass(frozen=True)
class MixtureConfig(Section):
    """How often data sets are drawn from: the weight of their group, divided evenly among the sets of that group.

    A set listed twice in `data` has twice the share. Defaults: LISA's 9 : 3 : 1, and 3 for text, which the paper leaves
    out.
    """

    semantic: Weight = 9.0
    """Weight of semantic and part segmentation."""
    referring: Weight = 3.0
    """Weight of referring segmentation."""
    reasoning: Weight = 1.0
    """Weight of reasoning segmentation."""
    rendered: Weight = 1.0
    """Weight of PartWorld."""
    custom: Weight = 1.0
    """Weight of your own data."""
    text: Weight = 3.0
    """Weight of conversations without masks."""
    explanatory: Fraction = 0.1
    """Share of the questions with a known text answer that are answered by this text alone."""
    no_target: Fraction = 0.0
    """Share of the questions that are replaced by questions about what an image does not show, taken from other images.
    Their answer is a rejection with `chain.rejects`, else an empty mask."""
    even: bool = False
    """Show every image once an epoch instead, as always with a single data set."""
    exclude_val: bool = False
    """Leave out images that a prepared val or test split contains."""

    def __post_init__(self) -> None:
        check_limits("mixture", self)


@dataclass(frozen=True)
class TrainConfig(Section):
    """How to train. Defaults: the paper's optimiser (appendix A)."""

    start_from: str | None = None
    """Model whose weights a run starts from: a checkpoint, a release, a hub id or `tiny`."""
    steps: Positive = 5000
    """Optimiser steps."""
    global_batch_size: Positive = 2
    """Images of a step, of all processes together."""
    micro_batch_size: NotNegative | None = None
    """Images of one forward and backward pass of a process, for less memory; null for its whole share of a step."""
    queries_per_image: Positive = 3
    """Most questions about an image in a step."""
    learning_rate: Weight = 3e-4
    """Peak learning rate of AdamW."""
    warmup_steps: NotNegative = 100
    """Steps of linear warm-up."""
    lr_decay_fraction: Fraction = 1.0
    """Share of the steps after the warm-up in which the rate decays linearly to 0; before, it is constant."""
    weight_decay: Weight = 0.0
    """Weight decay of AdamW."""
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    """Betas of AdamW."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: encoders and language model run in bfloat16 (autocast); weights and mask decoder stay in float32."""
    max_image_size: Positive | None = None
    """Larger images are resized so that their longer side has this many pixels."""
    random_flip: bool = False
    """Mirror every other image at random. Not for data that mentions left and right."""
    cache_images: bool = False
    """Keep decoded images in memory."""
    gradient_clip: Weight = 1.0
    """Largest norm of the gradient."""
    seed: NotNegative = 0
    """Seed of weights, data order and dropout."""
    log_every: Positive = 10
    """Steps between points on the board and lines without a terminal."""
    save_every: Positive = 250
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints to keep; the best one is always kept."""
    validate_every: Positive = 500
    """Steps between validations."""
    validation_images: NotNegative = 64
    """Most images of a validation."""
    workers: NotNegative = 1
    """Data loading processes per training process; 0 loads in the training process."""
    max_skipped: NotNegative = 100
    """Most unusable samples that a run skips before it stops."""
    wandb: str | None = None
    """Project of Weights & Biases that gets what TensorBoard gets."""
    activation_checkpointing: bool = False
    """Recompute the language model's activations in the backward pass, for less memory."""
    compile: bool = False
    """Compile SAM's image encoder (torch.compile): about a minute at the start, less time a step."""
    embedding_cache: str | None = None
    """Folder for the image embeddings of a frozen SAM, in bfloat16 (2 MB each at 1024 pixels), and of a LLaVA's frozen
    vision tower (2 to 5 MB); runs can share it."""
    embedding_cache_gb: Weight = 100.0
    """Most space of `embedding_cache`, in 10^9 bytes."""

    def __post_init__(self) -> None:
        check_limits("train", self)


@dataclass(frozen=True)
class ScratchConfig(Section):
    """Training from random weights (train/scratch/), which the paper does not do. Off with these defaults.

    It has three phases, each with a warm-up and a decay of its own; the third is what `sam_steps` and `align_steps`
    leave of `train.steps`.
    """

    prototype_loss: Weight = 0.0
    """Weight of the prototype loss, which the first two phases need."""
    sam_steps: NotNegative = 0
    """Steps of the first phase, which trains SAM alone, with prototypes as its prompts."""
    sam_images: Positive = 8
    """Images of a step of the first phase, of all processes together."""
    sam_queries: Positive = 1
    """Most prompts of an image in the first phase."""
    align_steps: NotNegative = 0
    """Steps of the second phase, which trains the MLLM alone to give the prototypes."""
    joint_lr_scale: Weight = 1.0
    """Factor on all learning rates in the third phase, which trains the whole model."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the weight matrices of hidden layers, AdamW for everything else."""
    muon_learning_rate: Weight = 4e-3
    """Peak learning rate of Muon; that of AdamW is `train.learning_rate`."""
    embedding_lr_scale: Weight = 1.0
    """Factor on AdamW's learning rate for embedding tables, each row of which gets few gradients."""
    word_dropout: Probability = 0.0
    """Probability of leaving out a word of a question."""

    def __post_init__(self) -> None:
        check_limits("scratch", self)
        for name in ("sam_steps", "align_steps"):
            if getattr(self, name) and not self.prototype_loss:
                raise ConfigError(f"`scratch.{name}` needs `scratch.prototype_loss`", hint=f"set scratch.{name}=0")


@dataclass(frozen=True)
class EngineConfig(Section):
    """How processes train together (train/engine.py, train/zero.py)."""

    kind: Literal["auto", "torch", "deepspeed"] = "auto"
    """Plain PyTorch or DeepSpeed; `auto`: DeepSpeed if several processes train with AdamW."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What ZeRO divides among processes: nothing (0), moments (1), also gradients (2), also weights (3)."""
    offload: bool = False
    """Keep the moments in the memory of the CPU."""


@dataclass(frozen=True)
class Config(Section):
    """All settings of a model and its training."""

    base: BaseConfig = field(default_factory=BaseConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    context: Context = "fixed"
    """In-context example before the question: none, the paper's, or in training a random one for each image."""
    wording: Wording = "cores"
    """Spelling of tokens and wording of answers: as in the paper, or as in the released weights."""
    conversation: Conversation = "llava_v1"
    """Chat template: one of the releases, or the model's own (`template`)."""
    loss: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    data: tuple[str, ...] = ("partworld",)
    """Data sets to train on, by name (`cores prepare-data --list`); validation is on the first."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.wording == "released" and (self.chain.stages == 3 or self.chain.chain_of_thought):
            raise ConfigError("no release words such answers", hint="set wording=cores")
        if self.lora.rank and not (self.train.start_from or (self.base.mllm and self.base.sam)):
            hint = "set base.mllm and base.sam, or start --from a model"
            raise ConfigError("`lora.rank` keeps the weights of a model as they are, and there is none", hint=hint)

    @property
    def prompt(self) -> PromptFormat:
        """The prompt format that this model is trained with."""
        return PromptFormat(
            stages=self.chain.stages,
            context=self.context,
            wording=self.wording,
            conversation=self.conversation,
            chain_of_thought=self.chain.chain_of_thought,
            rejects=self.chain.rejects,
        )
