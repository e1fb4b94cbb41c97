"""The parameters that a T5 should have, by name and shape."""

import dataclasses
import functools
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from dpt_jax.errors import SETTING, InputError
from dpt_jax.models import T5Config, Transformer
from dpt_jax.tensors import Shape


@functools.lru_cache(maxsize=32)
def _one_layer_shapes(config: T5Config) -> dict[str, Shape]:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    network = Transformer(config)
    variables = jax.eval_shape(
        lambda key, x: network.init(key, x, x, x, enable_dropout=False), jax.random.key(0), tokens
    )
    return {name: leaf.shape for name, leaf in flatten_dict(variables["params"], sep="/").items()}


def parameter_shapes(config: T5Config) -> dict[str, Shape]:
    """Names (joined with "/") and shapes of every parameter of `Transformer(config)`.

    The embedding comes first, then encoder and decoder with their layers in order.
    """
    # All layers of a stack have the same shapes, so that tracing one of each is enough.
    one = _one_layer_shapes(
        dataclasses.replace(
            config, num_encoder_layers=1, num_decoder_layers=1, dtype="float32", dropout_rate=0.0
        )
    )
    shapes = {}
    for stack, layers in (
        ("token_embedder", 0),
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        names = [name for name in one if name.split("/")[0] == stack]
        layer_names = [name for name in names if name.startswith(f"{stack}/layers_0/")]
        shapes.update({name: one[name] for name in names if name not in layer_names})
        for i in range(layers):
            for name in layer_names:
                shapes[name.replace("/layers_0/", f"/layers_{i}/")] = one[name]
    return shapes


def check_parameters(
    path: str, found: Mapping[str, Shape], config: T5Config, configured_by: str, remedy: str
) -> None:
    """Checks that the stored parameters are those of `Transformer(config)`.

    Args:
      path: where they are stored, for the message.
      found: names and shapes.
      config: the network they are meant for.
      configured_by: what states `config`, for the message: "the model file", "config.json".
      remedy: the sentence that says what to change.

    Raises:
      InputError: names the first parameter that is missing, of another shape, or unknown.
    """
    # Where a damaged file asks for a billion layers, one that is missing is enough to say.
    most = len(found) + 1
    layers = {
        name: min(getattr(config, name), most)
        for name in ("num_encoder_layers", "num_decoder_layers")
    }
    wanted = parameter_shapes(dataclasses.replace(config, **layers))
    check_shapes(path, found, wanted, configured_by, remedy)


def check_shapes(
    path: str,
    found: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    configured_by: str,
    remedy: str,
) -> None:
    """The same for the names and shapes that are `wanted`."""
    for name in (*wanted, *(name for name in found if name not in wanted)):
        here, there = found.get(name), wanted.get(name)
        if here == there:
            continue
        stored = f"has shape {here}" if here is not None else "is missing"
        asked = f"asks for {there}" if there is not None else "has no such parameter"
        raise InputError(
            f"{path}: parameter {name} {stored}, but {configured_by} {asked}. {remedy}"
        )


def check_both_stacks(where: object, stacks: Collection[str]) -> None:
    """Raises InputError where a model is half a T5: `stacks` lacks "encoder" or "decoder"."""
    missing = [stack for stack in ("encoder", "decoder") if stack not in stacks]
    if missing:
        raise InputError(
            f"{where} holds no {' and no '.join(missing)}; a whole T5, encoder and decoder, is "
            f"needed. Change {SETTING}."
        )
