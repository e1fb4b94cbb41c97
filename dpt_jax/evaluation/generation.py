"""Generation on a mesh."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from dpt_jax.devices import agreement, partitioning
from dpt_jax.models import Transformer, decoding
from dpt_jax.training.state import Params


def generator(
    model: Transformer,
    max_decode_length: int,
    beam_size: int = 1,
    eos_id: int = decoding.EOS_ID,
):
    """Returns `generate(params, encoder_input_tokens, encoded=None) -> tokens`.

    The tokens are `[batch, max_decode_length]`, of the best beam where there are several;
    `decoding.greedy_decode` and `decoding.beam_search` tell the arguments.
    """

    def generate(params, encoder_input_tokens, encoded=None):
        inputs = model, params, encoder_input_tokens
        limits = {"max_decode_length": max_decode_length, "eos_id": eos_id, "encoded": encoded}
        if beam_size == 1:
            return decoding.greedy_decode(*inputs, **limits)
        beams, _ = decoding.beam_search(*inputs, beam_size=beam_size, **limits)
        return beams[:, 0]

    return generate


# Runs of one model in one process, as a sweep's or a demo's are, share what is compiled.
@functools.lru_cache(maxsize=16)
def _compiled_encoder(model: Transformer) -> Callable[..., Array]:
    return jax.jit(functools.partial(decoding.encode, model))


@functools.lru_cache(maxsize=16)
def _compiled_generator(
    model: Transformer, mesh: Mesh, max_decode_length: int, beam_size: int, eos_id: int
) -> Callable[..., Array]:
    return jax.jit(
        generator(model, max_decode_length, beam_size, eos_id),
        # Every process gets all rows: they are few numbers, and NumPy reads what is all here.
        out_shardings=partitioning.replicated(mesh),
    )


class Generator:
    """A `generator` compiled for a mesh: `(params, encoder_input_tokens) -> tokens`.

    One program, except where the mesh divides a CPU. The encoder, which is bound by arithmetic, is
    still divided then. A decoder reads all its weights for every token, and devices of a CPU would
    each read them from the same memory; so one device decodes all rows, with the threads of all.
    """

    def __init__(
        self,
        model: Transformer,
        mesh: Mesh,
        max_decode_length: int,
        beam_size: int = 1,
        eos_id: int = decoding.EOS_ID,
    ):
        self._one = _mesh_to_decode_on(mesh)
        self._encode = _compiled_encoder(model)
        self._generate = _compiled_generator(
            model, self._one or mesh, max_decode_length, beam_size, eos_id
        )

    def __call__(
        self, params: Params, encoder_input_tokens: Int[Array, "batch source"]
    ) -> Int[Array, "batch target"]:
        """Generates for tokens that are on the mesh, as the parameters are, the prompt excepted."""
        if self._one is None:
            return self._generate(params, encoder_input_tokens)
        encoded = self._encode(params, encoder_input_tokens)
        frozen = {name: value for name, value in params.items() if name != "prompt"}
        # The device has its replica of the parameters: only the encoded rows are copied.
        operands = frozen, encoder_input_tokens, encoded
        with partitioning.activate(self._one):
            return self._generate(*jax.device_put(operands, partitioning.replicated(self._one)))


def _mesh_to_decode_on(mesh: Mesh) -> Mesh | None:
    """One device of a divided CPU, where all parameters are; None on other meshes."""
    shares_memory = mesh.devices.flat[0].platform == "cpu" and agreement.process_count() == 1
    replicated = mesh.shape["fsdp"] == mesh.shape["model"] == 1
    if not (shares_memory and replicated and mesh.size > 1):
        return None
    return partitioning.make_mesh((1, 1, 1), [mesh.devices.flat[0]])
