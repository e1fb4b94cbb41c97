"""The trainable state, and the split between what is trained and what is frozen."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.tensors import Params


class TrainState(struct.PyTreeNode):
    """What training changes, and all that a checkpoint has to hold.

    The frozen parameters are not here: they are stored once, passed to the step beside the state,
    and have neither gradients nor optimizer slots.

    Attributes:
      step: int32 scalar, updates made so far.
      params: the trainable parameters.
      opt_state: the optimizer's state, over `params` alone.
      rng: key data (uint32) of the run's random stream; step `i` uses it folded with `i`.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    rng: jax.Array

    @classmethod
    def create(
        cls, params: Params, optimizer: optax.GradientTransformation, seed: int
    ) -> "TrainState":
        """A fresh state at step 0."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            rng=jax.random.key_data(jax.random.key(seed)),
        )


def split_params(params: Mapping[str, Any], trainable: str) -> tuple[Params, Params]:
    """Splits a parameter tree into `(trainable, frozen)` before differentiation.

    Args:
      params: nested dict of parameters.
      trainable: regular expression; a parameter is trained when its whole name, such as
        `prompt/A` or `encoder/layers_0/mlp/wi/kernel`, matches.

    Raises:
      InputError: when nothing matches.
    """
    flat = flatten_dict(params, sep="/")
    pattern = re.compile(trainable)
    chosen = {name for name in flat if pattern.fullmatch(name)}
    if not chosen:
        raise InputError(
            f"No parameter matches the trainable pattern {trainable!r}; the names are "
            f"{', '.join(sorted(flat)[:5])}, ... Set RunConfig.trainable."
        )
    parts = (
        {name: value for name, value in flat.items() if (name in chosen) is wanted}
        for wanted in (True, False)
    )
    train, frozen = (unflatten_dict(part, sep="/") for part in parts)
    return train, frozen


def merge_params(trainable: Params, frozen: Params) -> Params:
    """Puts the two parts of `split_params` together again."""
    flat = flatten_dict(frozen, sep="/") | flatten_dict(trainable, sep="/")
    return unflatten_dict(flat, sep="/")


def make_state(
    params: Params,
    shardings: Params,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """The state at step 0; optimizer slots live where their parameters live."""

    def create(params):
        return TrainState.create(params, optimizer, seed)

    abstract = jax.eval_shape(create, params)
    placed = partitioning.state_shardings(abstract, shardings, optimizer, mesh)
    return jax.jit(create, out_shardings=placed)(params)
