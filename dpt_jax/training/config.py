"""What a run is: every setting of `dpt train`, bound through gin as `RunConfig`."""

import dataclasses
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpt_jax.devices.placement import is_frozen_dtype
from dpt_jax.errors import InputError
from dpt_jax.training import schedules

if TYPE_CHECKING:
    from dpt_jax.models import T5Config
    from dpt_jax.prefixes import Prefix
    from dpt_jax.prompts import SoftPrompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train, whatever it is. The gin macro that usually sets a field is in capitals.

    Attributes:
      model_dir: MODEL_DIR, the run's folder; a run is continued by naming its folder again.
      train_steps: TRAIN_STEPS, optimizer updates; takes precedence over `epochs`.
      epochs: EPOCHS, passes over the training split.
      batch_size: BATCH_SIZE, examples per update, over all devices.
      eval_period: EVAL_PERIOD, updates between evaluations; "epoch" for one per epoch, 0 for none.
      checkpoint_period: updates between checkpoints; None saves with every evaluation.
      random_seed: RANDOM_SEED, of the first parameters, the data's order and dropout.
      optimizer: OPTIMIZER, called with a learning-rate schedule; any optax optimizer will do.
      learning_rate: LEARNING_RATE, called with the number of steps, returns the schedule.
      clip_norm: largest norm of the gradient; None does not clip.
      microbatches: MICROBATCHES, parts in which a batch is run to save memory; the same result,
        but that each draws its own dropout.
      frozen_dtype: FROZEN_DTYPE, dtype in which the frozen parameters are stored.
      mesh: MESH, sizes of the device mesh's (data, fsdp, model) axes; -1 takes what is left.
      eval_split: split to evaluate on.
      early_stopping_patience: EARLY_STOPPING_PATIENCE, evaluations without a new best after which
        training stops; None never stops early.
      log_period: updates between lines of training metrics.
    """

    model_dir: str
    train_steps: int | None = None
    epochs: int | None = None
    batch_size: int = 16
    eval_period: int | str = "epoch"
    checkpoint_period: int | None = None
    random_seed: int = 0
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = optax.adamw
    learning_rate: Callable[[int], optax.Schedule] = schedules.constant
    clip_norm: float | None = None
    microbatches: int = 1
    frozen_dtype: Any = None
    mesh: Sequence[int] = (-1, 1, 1)
    eval_split: str = "validation"
    early_stopping_patience: int | None = None
    log_period: int = 10

    # What binds the fields in gin.
    KIND: ClassVar[str] = "RunConfig"
    # The plain settings that decide what a run gives, beside those that tell its problem and its
    # data. A run is not continued under others; see `run_folder.check_identity`.
    RECIPE: ClassVar[tuple[str, ...]] = ("clip_norm", "eval_split")
    # The settings that may be functions with settings of their own, which decide it as well.
    FUNCTIONS: ClassVar[tuple[str, ...]] = ("optimizer", "learning_rate", "prompt", "prefix")
    # The fields that no gin macro sets.
    WITHOUT_MACRO: ClassVar[tuple[str, ...]] = (
        "checkpoint_period",
        "eval_split",
        "log_period",
    )

    def __post_init__(self):
        self._check("model_dir", _is_path, "a folder, as a text")
        self._check("batch_size", _positive, "a positive integer")
        self._check(
            "microbatches",
            lambda n: _positive(n) and self.batch_size % n == 0,
            f"a divisor of BATCH_SIZE = {self.batch_size}",
        )
        for name in ("train_steps", "epochs", "early_stopping_patience", "checkpoint_period"):
            self._check(name, _or_none(_positive), "a positive integer, or None")
        self._check("log_period", _positive, "a positive integer")
        self._check("random_seed", _is_seed, "an integer from 0 to 2**32 - 1")
        self._check(
            "clip_norm", _or_none(lambda x: is_number(x) and x > 0), "a positive number, or None"
        )
        self._check("eval_split", _is_text, "a split's name, as a text")
        self._check(
            "mesh",
            lambda sizes: isinstance(sizes, Sequence) and all(isinstance(n, int) for n in sizes),
            "three sizes (data, fsdp, model), such as (-1, 1, 1)",
        )
        self._check("frozen_dtype", _or_none(is_frozen_dtype), "None, 'bfloat16' or 'float32'")
        self._check(
            "eval_period",
            lambda n: n == "epoch" or _is_integer(n) and n >= 0,
            "a number of steps, 'epoch', or 0 for no evaluation",
        )
        if self.early_stopping_patience is not None and self.eval_period == 0:
            raise InputError(
                f"EARLY_STOPPING_PATIENCE is {self.early_stopping_patience}, but EVAL_PERIOD is 0, "
                "and it counts evaluations. Set --gin.EVAL_PERIOD, or "
                "--gin.EARLY_STOPPING_PATIENCE=None."
            )
        # The names alone are enough in gin: `OPTIMIZER = @optax.lion`, without parentheses.
        self._check("optimizer", callable, "a function such as optax.adamw, in gin @optax.adamw")
        self._check(
            "learning_rate",
            callable,
            "a schedule such as @schedules.constant, whose height is LEARNING_RATE_PEAK",
        )
        if self.train_steps is None and self.epochs is None:
            raise InputError("How long to train is not set: set --gin.TRAIN_STEPS or --gin.EPOCHS.")

    def _check(self, field: str, good: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, field)
        if not good(value):
            flag = self.flag_of(field)
            raise InputError(f"{flag} is {value!r}; it must be {wanted}. Set --gin.{flag}.")

    @classmethod
    def flag_of(cls, field: str) -> str:
        """The gin macro or binding that sets a field, as after `--gin.`."""
        return f"{cls.KIND}.{field}" if field in cls.WITHOUT_MACRO else field.upper()

    def make_optimizer(
        self, train_steps: int
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The optimizer of a run of so many steps, and the learning rate that it uses."""
        schedule = self.learning_rate(train_steps)
        optimizer = self.optimizer(schedule)
        if self.clip_norm is not None:
            optimizer = optax.chain(optax.clip_by_global_norm(self.clip_norm), optimizer)
        return optimizer, schedule

    def total_steps(self, steps_per_epoch: int) -> int:
        """How many steps a run takes."""
        return self.train_steps or (self.epochs or 0) * steps_per_epoch

    def check_optimizer(self, params: Any, train_steps: int) -> None:
        """Asks for an update of the parameters, on shapes alone, and for some learning rates.

        Some of Optax's optimizers take numbers for a schedule, or search along a line and ask for
        the loss itself.

        Args:
          params: what is trained; anything that has shapes and dtypes.
          train_steps: of the run.

        Raises:
          InputError: when the optimizer or the learning rate cannot be used.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        try:
            schedule = self.learning_rate(train_steps)
            # The largest rate of a schedule may be anywhere; its neighbourhood will do.
            probed = np.arange(0, train_steps, max(1, train_steps // 100))
            # One program: each operation of a schedule would be compiled by itself.
            found = jax.jit(jax.vmap(lambda step: jnp.float32(schedule(step))))(probed)
            rates = dict(zip(probed.tolist(), np.asarray(found).tolist(), strict=True))
        except (TypeError, ValueError) as e:
            raise _unusable("LEARNING_RATE", self.learning_rate, e) from e
        for step, rate in rates.items():
            if not (math.isfinite(rate) and rate >= 0):
                raise InputError(
                    f"The learning rate is {rate:g} at step {step + 1}; it must be finite, and not "
                    "negative. Set --gin.LEARNING_RATE_PEAK or --gin.LEARNING_RATE."
                )
        try:
            # Some optimizers refuse a rate that they see.
            self.optimizer(optax.constant_schedule(max(rates.values())))
            optimizer, _ = self.make_optimizer(train_steps)
            jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), shapes)
        except (TypeError, ValueError, AttributeError, IndexError) as e:
            raise _unusable("OPTIMIZER", self.optimizer, e) from e


_WANTED = {
    "LEARNING_RATE": "It is called with the number of steps, and gives a schedule. Set "
    "--gin.LEARNING_RATE, as to @schedules.constant",
    "OPTIMIZER": "An optimizer is called with a learning-rate schedule, and its update with "
    "gradients and parameters alone. Set --gin.OPTIMIZER, as to @optax.adamw",
}


def _unusable(flag: str, function: Callable[..., Any], error: Exception) -> InputError:
    # Gin adds where it was, in further lines.
    said = str(error).strip().partition("\n")[0]
    if isinstance(error, InputError):
        return InputError(said)
    name = getattr(function, "__name__", function)
    return InputError(
        f"{flag} is {name}, which cannot be used: {said}. {_WANTED[flag]}, or what binds its "
        "arguments."
    )


# What `RunConfig` takes for `overlength` and `scoring`.
OVERLENGTH = ("error", "truncate", "drop")
SCORINGS = ("generation", "rank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """The settings of `dpt train`: how to train, and what, a frozen T5 on a SeqIO task.

    Attributes:
      model: MODEL, the frozen T5's shape.
      prompt: PROMPT, the soft prompt, whose width is the model's where it is None; None trains
        without one.
      prefix: PREFIX, keys and values in front of the layers' own; None trains without. With neither
        prompt nor prefix, the T5 itself is trained (full fine-tuning).
      initial_checkpoint_path: INITIAL_CHECKPOINT_PATH, the pretrained T5, in any format that
        `dpt_jax.interop.load_backbone` reads; None starts from random weights.
      mixture_or_task_name: MIXTURE_OR_TASK_NAME, a SeqIO task or mixture.
      task_feature_lengths: TASK_FEATURE_LENGTHS, longest `inputs` and `targets` in tokens.
      mixture_or_task_module: MIXTURE_OR_TASK_MODULE, imported to register the task.
      z_loss: weight of the squared log normalizer in the loss.
      trainable: regular expression of the trained parameters' names; None is prompt and prefix
        alone, or everything when there is neither.
      num_buckets: NUM_BUCKETS, padded source lengths, and so compiled programs, at most.
      balanced_batches: BALANCED_BATCHES, give every batch the targets' shares, to one row; for
        tasks with few answers, such as classification.
      overlength: OVERLENGTH, what to do with too long examples: `error`, `truncate` or `drop`.
      train_split: split to train on.
      eval_batch_size: EVAL_BATCH_SIZE, examples decoded at once; None is `batch_size`.
      scoring: SCORING, how evaluation answers: by `generation`, or by `rank`, which takes the most
        probable of the `candidates` that the task's rows bring
        (`dpt_jax.evaluation.rank_classification`).
      beam_size: beams of the evaluation's decoding; 1 is greedy.
      best_metric: BEST_METRIC, the metric that names the best step, averaged over the tasks, or
        `superglue_average`; None is the latter where the tasks are SuperGLUE's eight, and otherwise
        each task's first. Higher is better.
    """

    model: "T5Config"
    prompt: "SoftPrompt | None"
    initial_checkpoint_path: str | None
    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    prefix: "Prefix | None" = None
    mixture_or_task_module: str | None = None
    z_loss: float = 0.0
    trainable: str | None = None
    num_buckets: int = 8
    balanced_batches: bool = False
    overlength: str = "error"
    train_split: str = "train"
    eval_batch_size: int | None = None
    scoring: str = "generation"
    beam_size: int = 1
    best_metric: str | None = None

    RECIPE: ClassVar[tuple[str, ...]] = (
        *TrainingConfig.RECIPE,
        "z_loss",
        "scoring",
        "beam_size",
        "best_metric",
    )
    WITHOUT_MACRO: ClassVar[tuple[str, ...]] = (
        *TrainingConfig.WITHOUT_MACRO,
        "beam_size",
        "train_split",
        "trainable",
        "z_loss",
    )

    def __post_init__(self):
        self._check(
            "task_feature_lengths",
            lambda lengths: (
                isinstance(lengths, Mapping)
                and all(_positive(lengths.get(k)) for k in ("inputs", "targets"))
            ),
            "like {'inputs': 256, 'targets': 16}",
        )
        super().__post_init__()
        self._check("model", has("emb_dim"), "one like @models.T5Config()")
        self._check(
            "prompt",
            _or_none(has("embed_dim")),
            "one like @prompts.DecomposedPrompt(), or None",
        )
        self._check(
            "prefix",
            _or_none(has("stacks")),
            "one like @prefixes.DecomposedPrefix(), or None",
        )
        for name in ("num_buckets", "beam_size"):
            self._check(name, _positive, "a positive integer")
        self._check("balanced_batches", lambda x: isinstance(x, bool), "True or False")
        self._check("eval_batch_size", _or_none(_positive), "a positive integer, or None")
        self._check("z_loss", lambda x: is_number(x) and x >= 0, "a number, 0 or more")
        for name in ("mixture_or_task_name", "train_split"):
            self._check(name, _is_text, "a name, as a text")
        self._check("initial_checkpoint_path", _or_none(_is_path), "a path, as a text, or None")
        for name in ("mixture_or_task_module", "best_metric"):
            self._check(name, _or_none(_is_text), "a text, or None")
        self._check("trainable", _or_none(_is_pattern), "a regular expression, or None")
        for name, choices in (("overlength", OVERLENGTH), ("scoring", SCORINGS)):
            self._check(name, choices.__contains__, f"one of {', '.join(choices)}")
        if self.prompt is not None and self.prompt.embed_dim is None:
            sized = self.prompt.clone(parent=None, embed_dim=self.model.emb_dim)
            object.__setattr__(self, "prompt", sized)
        if self.prompt is not None and self.prompt.embed_dim != self.model.emb_dim:
            raise InputError(
                f"The prompt is {self.prompt.embed_dim} wide (EMBED_DIM), the model "
                f"{self.model.emb_dim} (T5Config.emb_dim). Leave the prompt's width out, or give "
                "both that of the pretrained T5."
            )

    @property
    def decode_batch_size(self) -> int:
        """Examples decoded at once."""
        return self.eval_batch_size or self.batch_size

    @property
    def trainable_pattern(self) -> str:
        """Regular expression of the names of the trained parameters."""
        if self.trainable is not None:
            return self.trainable
        parts = [name for name in ("prompt", "prefix") if getattr(self, name) is not None]
        if len(parts) > 1:
            return f"({'|'.join(parts)})/.*"
        return f"{parts[0]}/.*" if parts else ".*"


def _or_none(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or good(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _is_seed(value: Any) -> bool:
    return _is_integer(value) and 0 <= value < 2**32  # What `jax.random.key` tells apart.


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number, and not True or False."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def has(attribute: str) -> Callable[[Any], bool]:
    """Whether a value has an attribute and is no class, as gin gives without parentheses."""
    return lambda value: hasattr(value, attribute) and not isinstance(value, type)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_pattern(value: Any) -> bool:
    try:
        return bool(re.compile(value))
    except (re.error, TypeError):
        return False
