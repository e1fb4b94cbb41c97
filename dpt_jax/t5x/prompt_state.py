"""Where a prompted train state begins: the prompt's first values, and the state around them."""

import copy
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

import flax.core
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from t5x import train_state as train_states
from t5x import utils
from t5x.partitioning import BasePartitioner, PartitionSpec

from dpt_jax import gin_utils
from dpt_jax.errors import InputError
from dpt_jax.prompts import SoftPrompt, VocabularyInitializer, bind_vocabulary, shape_only
from dpt_jax.t5x.prompt_optimizer import PROMPT, PromptOptimizer
from dpt_jax.t5x.vocabulary import check_embedded

TrainState: TypeAlias = train_states.FlaxOptimTrainState | train_states.InferenceState

#: Where the embedding table is among the names of a state (see `flat_state`).
EMBEDDING = "target/token_embedder/embedding"


def prompt_key(seed: int | None) -> jax.Array:
    """The random key of the prompt's start: that of `dpt train` with the same RANDOM_SEED."""
    if seed is None:
        # As T5X does: an arbitrary seed, but the same on every host.
        seed = int(multihost_utils.broadcast_one_to_all(np.random.randint(2**31, dtype=np.int32)))
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(key, zlib.crc32(b"prompt"))


def needs_vocabulary(prompt: SoftPrompt) -> bool:
    """True where the prompt starts from the model's embeddings."""
    values = (getattr(prompt, field.name) for field in fields(prompt))
    return any(isinstance(value, VocabularyInitializer) for value in values)


def draw_prompt(
    prompt: SoftPrompt, key: jax.Array, embedding: Any = None, vocabulary: Any = None
) -> dict[str, Any]:
    """Draws the prompt's first parameters.

    Args:
      prompt: the prompt.
      key: a JAX random key.
      embedding: the restored table `[vocabulary, embed]`, where `needs_vocabulary(prompt)`.
      vocabulary: the SeqIO vocabulary; only class labels need it.

    Returns:
      The parameters as nested dicts of float32 numpy arrays.

    Raises:
      InputError: an initializer cannot serve this prompt, such as a file of another width.
    """
    try:
        bound = bind_vocabulary(prompt, embedding, vocabulary.encode if vocabulary else None)
        return jax.tree.map(np.asarray, bound.initialize(key))
    except (ValueError, OSError) as error:
        raise InputError(f"The prompt cannot be initialized: {error}") from error


def host_array(x: Any) -> np.ndarray:
    """The whole of an array in this host's memory; where it is sharded, all hosts must call."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x.addressable_data(0) if getattr(x, "is_fully_replicated", False) else x)


def flat_state(state: TrainState) -> dict[str, Any]:
    """A state's leaves by T5X's names: `target/…`, `state/step`, `state/param_states/…`."""
    return flatten_dict(state.state_dict(), sep="/")


def mesh_axes(template: TrainState, partitioner: BasePartitioner) -> dict[str, Any]:
    """Where each leaf of a state is, by the names of `flat_state`; None is on every device."""
    return flatten_dict(
        partitioner.get_mesh_axes(template).state_dict(), keep_empty_nodes=True, sep="/"
    )


def placed(array: np.ndarray, axes: Any, partitioner: BasePartitioner) -> jax.Array:
    """Puts an array that every host has on the devices of the mesh."""
    sharding = NamedSharding(partitioner.mesh, axes or PartitionSpec())
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def complete(
    template: TrainState,
    partitioner: BasePartitioner,
    frozen: Mapping[str, Any],
    trained: Mapping[str, Any],
) -> TrainState:
    """Makes a state on the devices.

    Args:
      template: the state's shapes and logical axes.
      partitioner: says where arrays are.
      frozen: the frozen parameters, on the devices already, by the names of `flat_state`.
      trained: the prompt, the optimizer's slots and the step, wherever they are.
    """
    axes = mesh_axes(template, partitioner)
    leaves = {
        name: placed(host_array(value), axes[name], partitioner) for name, value in trained.items()
    }
    return template.restore_state(unflatten_dict({**frozen, **leaves}, sep="/"))


def at_start(template: TrainState, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The trained part of a state that begins with these parameters of the prompt.

    Returns:
      Names as in `flat_state` and their values; the optimizer's slots where `template` has any.
    """
    trained = {f"target/{PROMPT}/{k}": v for k, v in flatten_dict(prompt, sep="/").items()}
    if isinstance(template, train_states.InferenceState):
        return {**trained, "state/step": np.zeros((), np.int32)}
    optimizer = template._optimizer.optimizer_def
    state = optimizer.init_state({PROMPT: dict(prompt)})
    slots = flatten_dict(optimizer.state_dict({}, state)["state"], sep="/")
    return {**trained, **{f"state/{name}": slot for name, slot in slots.items()}}


class PromptTrainStateInitializer(utils.TrainStateInitializer):
    """T5X's `TrainStateInitializer` for a model with a prompt.

    Shapes are found without the prompt's initializers, which may need a file or the embedding
    table: a run that is resumed needs neither. T5X itself initializes before it restores; a prompt
    that starts from restored embeddings is drawn by `PromptCheckpointer`.

    Raises:
      InputError: the model is not a prompted one, its vocabulary is not of its embedding's size, or
        a gin macro is mistyped.
    """

    def __init__(
        self,
        optimizer_def: Any,
        init_fn: Any,
        input_shapes: Mapping[str, Any],
        partitioner: BasePartitioner,
        input_types: Mapping[str, Any] | None = None,
    ):
        """Takes T5X's arguments; `init_fn` is a method of the model, as T5X has it."""
        gin_utils.check_unused_macros()
        self._model = init_fn.__self__
        prompt = getattr(self._model.module, "prompt", None)
        if not isinstance(prompt, SoftPrompt) or not isinstance(
            optimizer_def, PromptOptimizer | None
        ):
            raise InputError(
                "MODEL is not a prompted one with a frozen backbone; use a t5x/models/*.gin file "
                "of dpt_jax and a prompts/*.gin file."
            )
        check_embedded(self._model)
        shaped = copy.copy(self._model)
        shaped.module = self._model.module.clone(prompt=shape_only(prompt))
        super().__init__(
            optimizer_def, shaped.get_initial_variables, input_shapes, partitioner, input_types
        )

    def from_scratch(self, init_rng: jax.Array) -> TrainState:
        """A state with a random backbone, which T5X asks for when there is no checkpoint."""
        state = super().from_scratch(init_rng)
        prompt = self._model.module.prompt
        flat = flat_state(state)
        drawn = draw_prompt(
            prompt,
            jax.random.fold_in(init_rng, zlib.crc32(b"prompt")),
            host_array(flat[EMBEDDING]) if needs_vocabulary(prompt) else None,
            self._model.input_vocabulary,
        )
        template = self.global_train_state_shape
        trained = at_start(template, drawn)
        frozen = {name: leaf for name, leaf in flat.items() if name not in trained}
        return complete(template, self._partitioner, frozen, trained)


def part_of(template: TrainState, trained: bool) -> TrainState:
    """The prompt's part of a state's shapes, or the frozen part; both have the step.

    The frozen part has no optimizer, since nothing of it is optimized.
    """

    def keep(tree):
        return flax.core.freeze({k: v for k, v in tree.items() if (k == PROMPT) is trained})

    params, params_axes = keep(template.params), keep(template.params_axes)
    if trained and not isinstance(template, train_states.InferenceState):
        return template.replace(
            _optimizer=template._optimizer.replace(target=params), params_axes=params_axes
        )
    return train_states.InferenceState(step=template.step, params=params, params_axes=params_axes)
