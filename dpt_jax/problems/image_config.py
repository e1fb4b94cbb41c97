"""What a run on images is, bound through gin as `ImageRunConfig`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dpt_jax.data.images.augment import AUGMENTATIONS
from dpt_jax.data.images.draw import Draw
from dpt_jax.errors import InputError
from dpt_jax.models.vit import PLACEMENTS
from dpt_jax.training.config import TrainingConfig, has, is_number

if TYPE_CHECKING:
    from dpt_jax.data.images import Source
    from dpt_jax.models.vit import ViTConfig
    from dpt_jax.prefixes import Prefix
    from dpt_jax.prompts import SoftPrompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRunConfig(TrainingConfig):
    """How to train, and what: a frozen vision transformer on labelled images.

    A linear head on CLS is trained in every run. With neither prompt nor prefix and `fine_tune` 0
    it is all that is trained, a linear probe.

    Attributes:
      model: MODEL, the frozen ViT's shape; its head is as wide as there are classes.
      initial_checkpoint_path: INITIAL_CHECKPOINT_PATH, the pretrained ViT, in any format that
        `dpt_jax.interop.vit.open_vit` reads; None starts from random weights.
      data: DATA, where labelled images come from: one of `dpt_jax.data.images` or
        `dpt_jax.data.contextual`, or another `Source`.
      prompt: PROMPT, the soft prompt, whose width is the model's where it is None.
      prompt_placement: PROMPT_PLACEMENT, where the prompt enters: "shallow", between CLS and
        patches; "deep", a prompt for every layer; "hidden", the same, and no token sees it
        (`dpt_jax.models.vit.VisionTransformer`).
      shared_a: SHARED_A, layers share the factor `A` of a decomposed prompt
        (`dpt_jax.models.vit.LayerPrompts`).
      prompt_dropout: PROMPT_DROPOUT, of prompts, and of a prefix's keys and values. The ViT itself
        is run without dropout.
      prefix: PREFIX, keys and values in front of the layers' own.
      fine_tune: FINE_TUNE, how many of the last layers are trained as well, with the norm behind
        them (partial fine-tuning), or "all" for the whole ViT.
      shots: SHOTS, training images of each class that are drawn; None takes `percent`.
      percent: PERCENT, share of the training images that is drawn.
      draw_seed: DRAW_SEED, which draw; not `random_seed`, so that methods and seeds share draws.
      resize: RESIZE, height and width that images are resized to before crops are taken, and that
        tiles of contextual sets are; None takes images as they are.
      augmentation: AUGMENTATION, one of `dpt_jax.data.images.augment.AUGMENTATIONS`.
      image_mean: IMAGE_MEAN, of each channel or of all; pixels are from 0 to 1.
      image_std: IMAGE_STD, likewise.
      train_split: split to train on.
      eval_batch_size: EVAL_BATCH_SIZE, images evaluated at once; None is `batch_size`.
    """

    model: "ViTConfig"
    initial_checkpoint_path: str | None
    data: "Source"
    prompt: "SoftPrompt | None" = None
    prompt_placement: str = "shallow"
    shared_a: bool = False
    prompt_dropout: float = 0.0
    prefix: "Prefix | None" = None
    fine_tune: int | str = 0
    shots: int | None = None
    percent: float = 100.0
    draw_seed: int = 0
    resize: int | None = None
    augmentation: str = "none"
    image_mean: Sequence[float] | float = 0.5
    image_std: Sequence[float] | float = 0.5
    train_split: str = "train"
    eval_batch_size: int | None = None

    KIND: ClassVar[str] = "ImageRunConfig"
    RECIPE: ClassVar[tuple[str, ...]] = (*TrainingConfig.RECIPE, "prompt_dropout")
    WITHOUT_MACRO: ClassVar[tuple[str, ...]] = (*TrainingConfig.WITHOUT_MACRO, "train_split")

    def __post_init__(self):
        super().__post_init__()
        self._check("model", has("patch_size"), "one like @vit.ViTConfig()")
        self._check("data", has("load"), "one like @images.Digits()")
        if self.prompt is not None:
            self._check("prompt", has("embed_dim"), "one like @prompts.VanillaPrompt(), or None")
        if self.prefix is not None:
            self._check("prefix", has("stacks"), "one like @prefixes.FreePrefix(), or None")
        self._check("prompt_placement", PLACEMENTS.__contains__, f"one of {', '.join(PLACEMENTS)}")
        augmentations = ", ".join(AUGMENTATIONS)
        self._check("augmentation", AUGMENTATIONS.__contains__, f"one of {augmentations}")
        self._check("shared_a", lambda x: isinstance(x, bool), "True or False")
        self._check(
            "prompt_dropout",
            lambda x: isinstance(x, int | float) and 0 <= x < 1,
            "from 0 to below 1",
        )
        layers = self.model.num_layers
        self._check(
            "fine_tune",
            lambda x: x == "all" or type(x) is int and 0 <= x <= layers,
            f"the number of last layers to train, 0 to {layers}, or 'all'",
        )
        for name in ("resize", "eval_batch_size"):
            positive = lambda x: x is None or type(x) is int and x > 0  # noqa: E731
            self._check(name, positive, "a positive integer, or None")
        for name in ("image_mean", "image_std"):
            self._check(name, self._for_channels, f"a number, or {self.model.channels} of them")
        self._check("image_std", lambda std: bool(np.all(np.asarray(std) > 0)), "above 0")
        _ = self.draw
        decomposed = hasattr(self.prompt, "bottleneck")
        if self.shared_a and (self.prompt_placement == "shallow" or not decomposed):
            raise InputError(
                "SHARED_A = True needs a decomposed prompt for every layer. Set "
                "--gin.PROMPT_PLACEMENT=\"'deep'\" and name a decomposed prompt, or leave it out."
            )
        if self.prompt_placement == "hidden" and self.prompt is None:
            raise InputError(
                "PROMPT_PLACEMENT is 'hidden', but there is no prompt. Set --gin.PROMPT."
            )
        if self.prompt is not None and self.prompt.embed_dim is None:
            sized = self.prompt.clone(parent=None, embed_dim=self.model.emb_dim)
            object.__setattr__(self, "prompt", sized)
        if self.prompt is not None and self.prompt.embed_dim != self.model.emb_dim:
            raise InputError(
                f"The prompt is {self.prompt.embed_dim} wide (EMBED_DIM), the ViT "
                f"{self.model.emb_dim} (ViTConfig.emb_dim); use the model's own gin file."
            )
        if self.prefix is not None and self.prefix.stacks != ("encoder",):
            raise InputError(
                f"PREFIX_STACKS is {self.prefix.stacks!r}, but a ViT has an encoder alone. Set "
                "--gin.PREFIX_STACKS=\"('encoder',)\"."
            )

    def _for_channels(self, value: Any) -> bool:
        numbers_of = value if isinstance(value, Sequence) else [value] * self.model.channels
        return len(numbers_of) == self.model.channels and all(is_number(x) for x in numbers_of)

    @property
    def draw(self) -> Draw:
        """Which training images are taken."""
        return Draw(self.shots, self.percent, self.draw_seed)

    @property
    def task(self) -> str:
        """The name of data and draw, which names files."""
        return self.data.name + self.draw.name

    @property
    def decode_batch_size(self) -> int:
        """Images evaluated at once."""
        return self.eval_batch_size or self.batch_size

    @property
    def trainable_pattern(self) -> str:
        """Regular expression of the names of the trained parameters."""
        if self.fine_tune == "all":
            return ".*"
        parts = ["head", "prompt_head", "prompt", "prefix"]
        layers = self.model.num_layers
        if self.fine_tune:
            last = "|".join(str(i) for i in range(layers - int(self.fine_tune), layers))
            parts += [f"encoder/layers_({last})", "encoder/encoder_norm"]
        return f"({'|'.join(parts)})/.*"
