"""The train state of a frozen T5 with a prompt or a prefix, in its frozen and its trained part."""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import flax.core
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from t5x import train_state as train_states
from t5x import utils
from t5x.partitioning import BasePartitioner

from dpt_jax import gin_utils
from dpt_jax.errors import InputError
from dpt_jax.prompts import shape_only
from dpt_jax.t5x.arrays import host_array, placed
from dpt_jax.t5x.prompt_optimizer import PromptOptimizer
from dpt_jax.t5x.prompted_network import PromptedTransformer
from dpt_jax.t5x.trained_parts import TRAINED, TrainedParts
from dpt_jax.t5x.vocabulary import check_embedded

TrainState: TypeAlias = train_states.FlaxOptimTrainState | train_states.InferenceState

#: Where the embedding table is among the names of a state (see `flat_state`).
EMBEDDING = "target/token_embedder/embedding"


def flat_state(state: TrainState) -> dict[str, Any]:
    """A state's leaves by T5X's names: `target/…`, `state/step`, `state/param_states/…`."""
    return flatten_dict(state.state_dict(), sep="/")


def mesh_axes(template: TrainState, partitioner: BasePartitioner) -> dict[str, Any]:
    """Where each leaf of a state is, by the names of `flat_state`; None is on every device."""
    return flatten_dict(
        partitioner.get_mesh_axes(template).state_dict(), keep_empty_nodes=True, sep="/"
    )


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
      trained: prompt and prefix, the optimizer's slots and the step, wherever they are.
    """
    axes = mesh_axes(template, partitioner)
    leaves = {
        name: placed(host_array(value), axes[name], partitioner) for name, value in trained.items()
    }
    return template.restore_state(unflatten_dict({**frozen, **leaves}, sep="/"))


def at_start(template: TrainState, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The trained part of a state that begins with these parameters.

    Args:
      template: the state's shapes.
      drawn: what `TrainedParts.draw` gives.

    Returns:
      Names as in `flat_state` and their values; the optimizer's slots where `template` has any.
    """
    trained = flatten_dict({"target": drawn}, sep="/")
    if isinstance(template, train_states.InferenceState):
        return {**trained, "state/step": np.zeros((), np.int32)}
    optimizer = template._optimizer.optimizer_def
    state = optimizer.init_state(drawn)
    slots = flatten_dict(optimizer.state_dict({}, state)["state"], sep="/")
    return {**trained, **{f"state/{name}": slot for name, slot in slots.items()}}


class PromptTrainStateInitializer(utils.TrainStateInitializer):
    """T5X's `TrainStateInitializer` for a model with a prompt or a prefix.

    Shapes are found without the initializers of what is trained, which may need a file or the
    embedding table: a run that is resumed needs neither. T5X itself initializes before it restores;
    what starts from restored embeddings is drawn by `PromptCheckpointer`.

    Raises:
      InputError: the model is not a prompted one or has neither prompt nor prefix, its vocabulary
        is not of its embedding's size, or a gin macro is mistyped.
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
        module = self._model.module
        if not isinstance(module, PromptedTransformer) or not isinstance(
            optimizer_def, PromptOptimizer | None
        ):
            raise InputError(
                "MODEL is not a prompted one with a frozen backbone; use a t5x/models/*.gin file "
                "of dpt_jax, and a prompts/*.gin or prefixes/*.gin file."
            )
        check_embedded(self._model)
        shaped = copy.copy(self._model)
        shaped.module = module.clone(
            prompt=module.prompt and shape_only(module.prompt),
            prefix=module.prefix and shape_only(module.prefix),
        )
        super().__init__(
            optimizer_def, shaped.get_initial_variables, input_shapes, partitioner, input_types
        )

    def from_scratch(self, init_rng: jax.Array) -> TrainState:
        """A state with a random backbone, which T5X asks for when there is no checkpoint."""
        state = super().from_scratch(init_rng)
        module, flat = self._model.module, flat_state(state)
        parts = TrainedParts(module.prompt, module.prefix, module.config)
        embedding = host_array(flat[EMBEDDING]) if parts.needs_model else None
        drawn = parts.draw(init_rng, embedding, self._model.input_vocabulary)
        template = self.global_train_state_shape
        trained = at_start(template, drawn)
        frozen = {name: leaf for name, leaf in flat.items() if name not in trained}
        return complete(template, self._partitioner, frozen, trained)


def part_of(template: TrainState, trained: bool) -> TrainState:
    """The trained part of a state's shapes, or the frozen part; both have the step.

    The frozen part has no optimizer, since nothing of it is optimized.
    """

    def keep(tree):
        return flax.core.freeze({k: v for k, v in tree.items() if (k in TRAINED) is trained})

    params, params_axes = keep(template.params), keep(template.params_axes)
    if trained and not isinstance(template, train_states.InferenceState):
        return template.replace(
            _optimizer=template._optimizer.replace(target=params), params_axes=params_axes
        )
    return train_states.InferenceState(step=template.step, params=params, params_axes=params_axes)
