"""T5X's checkpointer for a frozen backbone and what is trained: from two places, and to two."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from t5x import checkpoints
from t5x.partitioning import BasePartitioner
from t5x.train_state import FlaxOptimTrainState

from dpt_jax import run_files
from dpt_jax.devices.placement import is_frozen_dtype
from dpt_jax.errors import InputError
from dpt_jax.files import write_json
from dpt_jax.models import T5Config
from dpt_jax.paths import as_path
from dpt_jax.prefixes import Prefix
from dpt_jax.prompts import SoftPrompt
from dpt_jax.t5x import numpy_checkpoints
from dpt_jax.t5x.arrays import host_array
from dpt_jax.t5x.checkpoint_path import without_number
from dpt_jax.t5x.prompt_state import (
    EMBEDDING,
    TrainState,
    at_start,
    complete,
    flat_state,
    part_of,
)
from dpt_jax.t5x.stored import MissingError, restore_part
from dpt_jax.t5x.trained_parts import TRAINED, TrainedParts, start_key, trained_of

# Where a numpy checkpoint tells which backbone it was trained with.
_BACKBONE = "backbone"


class PromptCheckpointer(checkpoints.Checkpointer):
    """T5X's `Checkpointer` (of the released format, msgpack and zarr) for a prompted model.

    Restoring takes the frozen parameters from a checkpoint, whatever else it holds. A run that is
    resumed takes everything from its own checkpoint, or goes on from its numpy checkpoints where
    those got further. A new run draws prompt and prefix with their own initializers, which see the
    restored embedding table, and begins at step 0 with fresh optimizer slots, whatever step the
    backbone was pretrained to. An evaluation takes both from the checkpoint, or those that start
    from a file.

    Saving writes `MODEL_DIR/numpy_checkpoints/checkpoint_<step>/` before T5X's own checkpoint, so
    that there is never one without it; T5X's `keep` does not remove these.
    """

    def __init__(
        self,
        train_state: TrainState,
        partitioner: BasePartitioner,
        checkpoints_dir: str,
        dataset_iterator: Any = None,
        *,
        prompt: SoftPrompt | None = None,
        prefix: Prefix | None = None,
        config: T5Config | None = None,
        vocabulary: Any = None,
        text: Callable[[], np.ndarray] | None = None,
        random_seed: int | None = 0,
        model_dir: str | None = None,
        save_only_prompt: bool = False,
        frozen_dtype: Any = None,
        restore_dtype: Any = None,
        **settings: Any,
    ):
        """Takes T5X's arguments and, bound through gin, what prompt and prefix need.

        Args:
          train_state: the state's shapes.
          partitioner: says where arrays are.
          checkpoints_dir: where to save.
          dataset_iterator: saved and restored with the state where T5X is told to.
          prompt: PROMPT; None for a prefix alone.
          prefix: PREFIX; None for a prompt alone.
          config: the network's `T5Config`, which a prefix needs.
          vocabulary: VOCABULARY, which class labels need.
          text: gives some of the task's inputs, for a start that is measured.
          random_seed: RANDOM_SEED, of the start of prompt and prefix; None for any.
          model_dir: MODEL_DIR of a training run; None to evaluate.
          save_only_prompt: SAVE_ONLY_PROMPT, write numpy checkpoints and nothing else.
          frozen_dtype: FROZEN_DTYPE, in which the frozen parameters are kept and saved, such as
            "bfloat16"; None for `restore_dtype`.
          restore_dtype: T5X's, here of the frozen parameters alone; None as stored.
          **settings: T5X's further settings.

        Raises:
          InputError: for a `frozen_dtype` that is neither bfloat16 nor float32.
        """
        if frozen_dtype is not None and not is_frozen_dtype(frozen_dtype):
            raise InputError(
                f"FROZEN_DTYPE is {frozen_dtype!r}; it must be None, 'bfloat16' or 'float32'. Set "
                "--gin.FROZEN_DTYPE."
            )
        frozen_dtype = jnp.dtype(frozen_dtype) if frozen_dtype else restore_dtype
        super().__init__(
            _with_frozen_dtype(train_state, frozen_dtype),
            partitioner,
            checkpoints_dir,
            dataset_iterator,
            **settings,
        )
        self._parts = TrainedParts(prompt, prefix, config)
        self._vocabulary = vocabulary
        self._text = text
        self._seed = random_seed
        self._model_dir = str(model_dir).rstrip("/") if model_dir else None
        self._save_only_prompt = save_only_prompt
        self._frozen_dtype = frozen_dtype

    def save(
        self,
        train_state: TrainState,
        state_transformation_fns: Sequence[Callable] = (),
        *,
        concurrent_gb: int = 128,
    ) -> None:
        """Writes the numpy checkpoint, then what T5X saves, unless it is told not to."""
        step = int(host_array(train_state.step))
        params = jax.tree.map(host_array, trained_of(train_state.params))
        adapter = self._parts.fold(train_state.params)
        rest = None
        if self._save_only_prompt:
            self._refuse_to_go_back(step)
            flat = flat_state(train_state)
            rest = {k: host_array(v) for k, v in flat.items() if k.startswith("state/")}
            rest[_BACKBONE] = _fingerprint(flat)
        if jax.process_index() == 0:
            folder = numpy_checkpoints.checkpoint_folder(str(self.checkpoints_dir), step)
            numpy_checkpoints.write(folder, adapter, params, rest)
        # No host goes on before it is on disk.
        multihost_utils.sync_global_devices(f"numpy_checkpoint:{step}")
        if not self._save_only_prompt:
            super().save(train_state, state_transformation_fns, concurrent_gb=concurrent_gb)

    def restore(
        self,
        step: int | None = None,
        path: str | None = None,
        state_transformation_fns: Sequence[Callable] = (),
        fallback_state: Mapping[str, Any] | None = None,
        lazy_parameters: bool = False,
    ) -> TrainState:
        """Restores a whole state; the class tells from where.

        Args:
          step: which checkpoint of `checkpoints_dir`, instead of `path`.
          path: a checkpoint of T5X, in the released format or Orbax's, or a pretrained T5 in any
            other format that `dpt_jax.interop.load_backbone` reads.
          state_transformation_fns: T5X's, applied to what the checkpoint holds.
          fallback_state: not needed, and not used.
          lazy_parameters: not supported.

        Raises:
          InputError: a frozen parameter is missing or has another shape, prompt or prefix cannot be
            initialized, the run's own state does not fit, or a random start would be evaluated.
        """
        del fallback_state, lazy_parameters
        path = without_number((path or str(self._get_checkpoint_dir(step))).rstrip("/"))
        training = isinstance(self._train_state, FlaxOptimTrainState)
        folder, name = os.path.split(path)
        own = folder == self._model_dir and re.fullmatch(r"checkpoint_\d+", name)
        resuming = training and bool(own)
        later = None
        if training and self._model_dir:
            later = numpy_checkpoints.latest_train_state(self._model_dir)

        drawn = None
        if training and not resuming and not later and not self._parts.needs_model:
            # Before gigabytes are read: a file may be missing, or hold another shape.
            drawn = self._draw()
        frozen = self._restore_part(path, state_transformation_fns, trained=False)
        if resuming:
            trained = self._restore_part(path, state_transformation_fns, trained=True)
            if later and later.step > int(host_array(trained["state/step"])):
                trained = self._trained_by(later, frozen)
        elif later:
            trained = self._trained_by(later, frozen)
        elif training:
            trained = at_start(self._train_state, drawn or self._draw(frozen))
        else:
            trained = self._to_evaluate(path, state_transformation_fns)
        return complete(self._train_state, self._partitioner, frozen, trained)

    def restore_from_tf_checkpoint(self, path_or_dir: str, *args: Any, **kwargs: Any) -> TrainState:
        """Refuses: TensorFlow checkpoints hold no parameter names of T5X.

        Raises:
          InputError: always; names T5X's own converter.
        """
        raise InputError(
            f"{path_or_dir} is a TensorFlow checkpoint. Convert it once with "
            "`python -m t5x.scripts.convert_tf_checkpoint`, and set INITIAL_CHECKPOINT_PATH to "
            "what that writes."
        )

    def _restore_part(
        self, path: str, transformations: Sequence[Callable], trained: bool
    ) -> dict[str, Any]:
        part = part_of(self._train_state, trained)
        return restore_part(
            path,
            part,
            self._partitioner,
            dtype=None if trained else self._frozen_dtype,
            transformations=transformations,
            dataset_iterator=self._original_dataset_iterator if trained else None,
        )

    def _draw(
        self, frozen: Mapping[str, Any] | None = None, another: bool = False
    ) -> dict[str, Any]:
        key = start_key(self._seed)
        if another:
            key = jax.random.fold_in(key, 1)
        if frozen is None:
            return self._parts.draw(key, vocabulary=self._vocabulary)
        params = unflatten_dict(dict(frozen), sep="/")["target"]
        measured = self._parts.measure(params, self._text)
        if measured and self._model_dir and jax.process_index() == 0:
            write_json(as_path(self._model_dir) / run_files.START, measured)
        return self._parts.draw(key, host_array(frozen[EMBEDDING]), self._vocabulary, measured)

    def _trained_by(
        self, later: numpy_checkpoints.Trained, frozen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The trained part that a numpy checkpoint holds, checked against this run's."""
        logging.info("Going on from step %d in %s.", later.step, later.folder)
        values = dict(later.values)
        if not np.array_equal(values.pop(_BACKBONE, np.zeros(0)), _fingerprint(frozen)):
            raise InputError(
                f"{later.folder} was trained with another backbone. Set INITIAL_CHECKPOINT_PATH to "
                "the one it began with, or use another --gin.MODEL_DIR for another run."
            )
        wanted = flat_state(part_of(self._train_state, trained=True))
        for name in sorted({*wanted, *values}):
            here, there = (np.shape(x[name]) if name in x else None for x in (values, wanted))
            if here != there:
                raise InputError(
                    f"{later.folder} has {name} of shape {here}, but this run's is {there}. Were "
                    "the prompt, the prefix or the optimizer changed? Use another "
                    "--gin.MODEL_DIR for another run."
                )
        return values

    def _refuse_to_go_back(self, step: int) -> None:
        # T5X restores nothing, and asks for nothing to be restored, without a checkpoint.
        later = numpy_checkpoints.latest_train_state(str(self.checkpoints_dir))
        if later and later.step > step:
            raise InputError(
                f"{later.folder} is there already, but this run is at step {step}: with random "
                "weights it cannot go on. Set INITIAL_CHECKPOINT_PATH to the backbone that the "
                "prompt began with, or use another --gin.MODEL_DIR."
            )

    def _to_evaluate(self, path: str, transformations: Sequence[Callable]) -> dict[str, Any]:
        try:
            return self._restore_part(path, transformations, trained=True)
        except MissingError as error:
            remedy = (
                "Set CHECKPOINT_PATH to a checkpoint of a run that trained this PROMPT or PREFIX, "
                "or give the prompt with --gin_file=prompts/vanilla_from_prompt.gin and "
                "--gin.PROMPT_FILE, the prefix with --gin_file=prefixes/free_from_prefix.gin and "
                "--gin.PREFIX_FILE."
            )
            if self._parts.needs_model:
                raise InputError(f"{error} {remedy}") from error
            drawn, again = self._draw(), self._draw(another=True)
            if not jax.tree.all(jax.tree.map(np.array_equal, drawn, again)):
                raise InputError(f"{error} {remedy}") from error
            logging.info("%s holds nothing trained; the start of PROMPT and PREFIX is used.", path)
            return at_start(self._train_state, drawn)


def _with_frozen_dtype(state: TrainState, dtype: Any) -> TrainState:
    if dtype is None:
        return state
    params = unflatten_dict(
        {
            name: leaf if name[0] in TRAINED else jax.ShapeDtypeStruct(leaf.shape, dtype)
            for name, leaf in flatten_dict(flax.core.unfreeze(state.params)).items()
        }
    )
    return state.replace_params(flax.core.freeze(params))


def _fingerprint(flat: Mapping[str, Any]) -> np.ndarray:
    """Numbers that tell one backbone from another, whatever dtype it is kept in."""
    norm = host_array(flat["target/encoder/encoder_norm/scale"]).astype(jnp.bfloat16)
    # Compiled, so that a table that is spread over hosts can be cut.
    rows = jax.jit(lambda table: table[:2].astype(jnp.bfloat16))(flat[EMBEDDING])
    return np.concatenate([norm, *host_array(rows)]).astype(np.float32)
