"""What a run is: every setting of `dpt train`, bound through gin as `RunConfig`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from dpt_jax.errors import InputError
from dpt_jax.training import schedules

if TYPE_CHECKING:
    from dpt_jax.models import T5Config
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
      microbatches: MICROBATCHES, parts in which a batch is run to save memory; the same result.
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

    def __post_init__(self):
        _require(_positive(self.batch_size), "BATCH_SIZE", self.batch_size, "a positive integer")
        _require(
            _positive(self.microbatches) and self.batch_size % self.microbatches == 0,
            "MICROBATCHES",
            self.microbatches,
            f"a divisor of BATCH_SIZE = {self.batch_size}",
        )
        for name in ("train_steps", "epochs", "early_stopping_patience"):
            _require_positive_or_none(self, name, name.upper())
        _require_positive_or_none(self, "checkpoint_period", "RunConfig.checkpoint_period")
        _require(
            _positive(self.log_period),
            "RunConfig.log_period",
            self.log_period,
            "a positive integer",
        )
        _require(
            isinstance(self.mesh, Sequence) and all(isinstance(n, int) for n in self.mesh),
            "MESH",
            self.mesh,
            "three sizes (data, fsdp, model), such as (-1, 1, 1)",
        )
        _require(
            self.frozen_dtype is None or _is_dtype(self.frozen_dtype),
            "FROZEN_DTYPE",
            self.frozen_dtype,
            "None, 'bfloat16' or 'float32'",
        )
        _require(
            self.eval_period == "epoch" or self.eval_period == 0 or _positive(self.eval_period),
            "EVAL_PERIOD",
            self.eval_period,
            "a number of steps, 'epoch', or 0 for no evaluation",
        )
        # The names alone are enough in gin: `OPTIMIZER = @optax.lion`, without parentheses.
        _require(callable(self.optimizer), "OPTIMIZER", self.optimizer, "one like @optax.adamw")
        _require(
            callable(self.learning_rate),
            "LEARNING_RATE",
            self.learning_rate,
            "a schedule such as @schedules.constant, whose height is LEARNING_RATE_PEAK",
        )
        if self.train_steps is None and self.epochs is None:
            raise InputError("How long to train is not set: set --gin.TRAIN_STEPS or --gin.EPOCHS.")

    def make_optimizer(
        self, train_steps: int
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The optimizer of a run of so many steps, and the learning rate that it uses.

        Raises:
          InputError: when the optimizer needs more than gradients and parameters.
        """
        schedule = self.learning_rate(train_steps)
        optimizer = _made(self.optimizer, schedule)
        if self.clip_norm is not None:
            optimizer = optax.chain(optax.clip_by_global_norm(self.clip_norm), optimizer)
        return optimizer, schedule


def _made(
    make: Callable[[optax.Schedule], optax.GradientTransformation], schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer, after it was asked for the update of an array of no contents.

    Some of Optax's take numbers for a schedule, or search along a line and ask for the loss itself.
    """
    try:
        optimizer = make(schedule)
        array = jax.ShapeDtypeStruct((2, 2), jnp.float32)
        jax.eval_shape(lambda x: optimizer.update(x, optimizer.init(x), x), array)
    except (TypeError, ValueError, AttributeError, IndexError) as e:
        name = getattr(make, "__name__", make)
        raise InputError(
            f"OPTIMIZER is {name}, which cannot be used: {str(e).partition(chr(10))[0]} An "
            "optimizer is called with a learning-rate schedule, and its update with gradients and "
            "parameters alone. Set --gin.OPTIMIZER, as to @optax.adamw."
        ) from e
    return optimizer


# What `RunConfig` takes for `overlength` and `scoring`.
OVERLENGTH = ("error", "truncate", "drop")
SCORINGS = ("generation", "rank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """The settings of `dpt train`: how to train, and what, a frozen T5 on a SeqIO task.

    Attributes:
      model: MODEL, the frozen T5's shape.
      prompt: PROMPT, the soft prompt; None trains without one (full fine-tuning).
      initial_checkpoint_path: INITIAL_CHECKPOINT_PATH, the pretrained T5, in any format that
        `dpt_jax.interop.load_backbone` reads; None starts from random weights.
      mixture_or_task_name: MIXTURE_OR_TASK_NAME, a SeqIO task or mixture.
      task_feature_lengths: TASK_FEATURE_LENGTHS, longest `inputs` and `targets` in tokens.
      mixture_or_task_module: MIXTURE_OR_TASK_MODULE, imported to register the task.
      z_loss: weight of the squared log normalizer in the loss.
      trainable: regular expression of the trained parameters' names; None is the prompt alone, or
        everything when there is no prompt.
      num_buckets: NUM_BUCKETS, padded source lengths, and so compiled programs, at most.
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
    mixture_or_task_module: str | None = None
    z_loss: float = 0.0
    trainable: str | None = None
    num_buckets: int = 8
    overlength: str = "error"
    train_split: str = "train"
    eval_batch_size: int | None = None
    scoring: str = "generation"
    beam_size: int = 1
    best_metric: str | None = None

    def __post_init__(self):
        lengths = self.task_feature_lengths
        _require(
            isinstance(lengths, Mapping)
            and all(_positive(lengths.get(k)) for k in ("inputs", "targets")),
            "TASK_FEATURE_LENGTHS",
            lengths,
            "like {'inputs': 256, 'targets': 16}",
        )
        super().__post_init__()
        _require(_positive(self.num_buckets), "NUM_BUCKETS", self.num_buckets, "a positive integer")
        _require_positive_or_none(self, "eval_batch_size", "EVAL_BATCH_SIZE")
        _require(
            _positive(self.beam_size), "RunConfig.beam_size", self.beam_size, "a positive integer"
        )
        for name, choices in (("overlength", OVERLENGTH), ("scoring", SCORINGS)):
            value = getattr(self, name)
            _require(value in choices, name.upper(), value, f"one of {', '.join(choices)}")
        if self.prompt is not None and self.prompt.embed_dim != self.model.emb_dim:
            raise InputError(
                f"The prompt is {self.prompt.embed_dim} wide (EMBED_DIM), the model "
                f"{self.model.emb_dim} (T5Config.emb_dim); use the model's own gin file."
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
        return ".*" if self.prompt is None else "prompt/.*"


def _require(ok: bool, name: str, value: Any, wanted: str) -> None:
    if not ok:
        raise InputError(f"{name} is {value!r}; it must be {wanted}. Set --gin.{name}.")


def _require_positive_or_none(config: TrainingConfig, field: str, name: str) -> None:
    value = getattr(config, field)
    _require(value is None or _positive(value), name, value, "a positive integer")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_dtype(name: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(name), jnp.floating))
    except TypeError:
        return False
