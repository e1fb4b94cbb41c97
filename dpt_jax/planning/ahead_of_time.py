"""Compiling a run for TPUs that are not there, and what the programs need of their memory.

The programs are the real ones, those that `dpt train` runs: the training step and the decoding of
an evaluation batch. libtpu's compiler works without a TPU, so it says here what it would say there.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.evaluation.generation import generator
from dpt_jax.models import vit
from dpt_jax.models.network import abstract_variables
from dpt_jax.planning.compiled import Costs, read_costs
from dpt_jax.planning.tpus import Slice
from dpt_jax.problems import image_network
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.problems.text import prepare
from dpt_jax.training.config import RunConfig
from dpt_jax.training.state import TrainState, merge_params, split_params
from dpt_jax.training.step import LossFn, jit_train_step


class CompilerRefused(RuntimeError):
    """The TPU compiler refused a program; the message is the compiler's own."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's memory that a program takes, as its compiler counts them.

    Attributes:
      frozen_weights: the chip's share of the frozen parameters.
      trained_weights: of the trained ones.
      optimizer_state: of the optimizer's slots, step and random key.
      batch: of tokens or images.
      temporaries: activations kept for the backward pass, and everything else in between.
      outputs: results that do not take an argument's place.
      program: the machine code.
    """

    frozen_weights: int
    trained_weights: int
    optimizer_state: int
    batch: int
    temporaries: int
    outputs: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program: what it needs of each chip and what it does there."""

    memory: Memory
    costs: Costs
    compile_seconds: float
    text: str = dataclasses.field(repr=False)


def tpu_devices(where: Slice) -> list[Any]:
    """The devices of a slice, good for compiling only.

    Raises:
      InputError: when libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError(
            "dpt plan compiles with libtpu, which is not installed: pip install 'dpt-jax[tpu]'. "
            "It needs no TPU."
        )
    # Read by libtpu when it is loaded. There is no machine to ask for what it would run on.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", where.accelerator_type)
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # No TPU is taken, so that another plan, or a run on this machine's TPU, is not in the way.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if where.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if where.chip.name == "v4":
        # As JAX runs on v4: the two cores of a chip as one device.
        options["chip_config_name"] = "megacore"
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=where.name, **options
        ).devices
    except RuntimeError as e:
        raise InputError(f"libtpu cannot describe --topology={where.name}: {e}") from e
    return list(found)


def compile_train_step(config: RunConfig, mesh: Mesh) -> Compiled:
    """Compiles the training step of `dpt train` for the devices of `mesh`.

    Args:
      config: the run, on text or images, of which `check` finds nothing wrong; texts are as long as
        TASK_FEATURE_LENGTHS allow.
      mesh: the devices, which need not exist.

    Raises:
      InputError: when the mesh does not divide the model.
      CompilerRefused: when the program does not fit.
    """
    planned = _planned(config, mesh)
    state, frozen, optimizer = _abstract_state(planned)
    where = partitioning.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype, sharding=where)
        for name, x in planned.row.items()
    }
    step = jit_train_step(
        planned.loss_fn,
        optimizer,
        config.microbatches,
        jax.tree.map(lambda x: x.sharding, state),
        mesh,
    )
    return _compile(step, (state, frozen, batch), mesh, state, frozen, batch)


def compile_decoding(config: RunConfig, mesh: Mesh) -> Compiled:
    """Compiles what evaluation runs: one batch decoded to the longest target.

    Args and errors are those of `compile_train_step`.
    """
    planned = _planned(config, mesh)
    params, frozen, shardings = _abstract_params(planned)
    params = _placed(params, shardings)
    lengths = config.task_feature_lengths
    decode = jax.jit(generator(planned.model, lengths["targets"], config.beam_size))
    tokens = _tokens(config.decode_batch_size, lengths["inputs"], mesh)
    return _compile(decode, (merge_params(params, frozen), tokens), mesh, params, frozen, tokens)


def check(config: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Finds what is wrong with a run before anything is compiled.

    Raises:
      InputError: when the mesh does not divide the model, or the optimizer cannot be used.
    """
    params, _, _ = _abstract_params(_planned(config, mesh))
    config.check_optimizer(params, _steps(config))


def weight_bytes(config: RunConfig, mesh: Mesh | AbstractMesh) -> int:
    """A chip's share of the weights, in bytes; nothing is compiled.

    Gradient and optimizer state of trained weights count as well.

    Raises:
      InputError: when the mesh does not divide the model.
    """
    state, frozen, _ = _abstract_state(_planned(config, mesh))
    # The gradient is as large as what it is of.
    return sum(map(_bytes_on_a_device, (frozen, state, state.params)))


class _Planned(NamedTuple):
    """A run without its data and its weights: what of it is compiled.

    Attributes:
      config: the run.
      mesh: the devices, which need not exist.
      model: the network.
      variables: shapes and logical axes of its variables.
      loss_fn: the loss.
      row: shape and dtype of a row of each of a batch's arrays.
    """

    config: Any
    mesh: Any
    model: Any
    variables: Any
    loss_fn: LossFn
    row: Mapping[str, jax.ShapeDtypeStruct]


def _planned(config: Any, mesh: Mesh | AbstractMesh) -> _Planned:
    if isinstance(config, ImageRunConfig):
        size, channels = config.model.image_size, config.model.channels
        # How many classes there are, the data would say; their head is next to nothing.
        sizes = dataclasses.replace(config.model, num_classes=1000)
        model: Any = image_network.model_of(config, sizes)
        row = {
            "images": jax.ShapeDtypeStruct((size, size, channels), jnp.uint8),
            "labels": jax.ShapeDtypeStruct((), jnp.int32),
            "weights": jax.ShapeDtypeStruct((), jnp.float32),
        }
        variables = vit.abstract_variables(model)
        loss_fn = image_network.make_loss_fn(model, config)
        return _Planned(config, mesh, model, variables, loss_fn, row)
    prepared = prepare(config, mesh)
    lengths = config.task_feature_lengths
    row = {
        name: jax.ShapeDtypeStruct((lengths[feature],), jnp.int32)
        for name, feature in (
            ("encoder_input_tokens", "inputs"),
            ("decoder_input_tokens", "targets"),
            ("decoder_target_tokens", "targets"),
        )
    }
    model = prepared.model
    loss_fn = make_loss_fn(model, config.z_loss)
    return _Planned(config, mesh, model, abstract_variables(model), loss_fn, row)


def _abstract_params(planned: _Planned):
    """Shapes of the trainable parameters, of the frozen ones placed, and the former's shardings."""
    config, variables = planned.config, planned.variables
    shardings = partitioning.parameter_shardings(variables, planned.mesh)
    params, frozen = split_params(variables["params"], config.trainable_pattern)
    where, frozen_where = split_params(shardings, config.trainable_pattern)
    if config.frozen_dtype is not None:
        dtype = jnp.dtype(config.frozen_dtype)
        frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), frozen)
    return params, _placed(frozen, frozen_where), where


def _abstract_state(planned: _Planned) -> tuple[TrainState, Any, optax.GradientTransformation]:
    """Shapes of the training state and of the frozen parameters, both placed; the optimizer."""
    config = planned.config
    params, frozen, shardings = _abstract_params(planned)
    optimizer, _ = config.make_optimizer(_steps(config))
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer, config.random_seed), params)
    where = partitioning.state_shardings(state, shardings, optimizer, planned.mesh)
    return _placed(state, where), frozen, optimizer


def _steps(config: Any) -> int:
    return config.train_steps or 1000


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, shardings
    )


def _tokens(rows: int, length: int, mesh: Mesh) -> jax.ShapeDtypeStruct:
    where = partitioning.batch_sharding(mesh)
    return jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=where)


def _bytes_on_a_device(tree: Any) -> int:
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree)
    )


def _compile(program: Any, args: tuple, mesh: Mesh, state: Any, frozen: Any, tokens: Any):
    began = time.monotonic()
    platform = mesh.devices.flat[0].platform
    with partitioning.activate(mesh):
        lowered = program.trace(*args).lower(lowering_platforms=(platform,))
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as e:
            raise CompilerRefused(str(e)) from e
    seconds = time.monotonic() - began
    found = compiled.memory_analysis()
    trained = state.params if isinstance(state, TrainState) else state
    sizes = {
        "frozen_weights": _bytes_on_a_device(frozen),
        "trained_weights": _bytes_on_a_device(trained),
        "batch": _bytes_on_a_device(tokens),
    }
    memory = Memory(
        **sizes,
        # What is left of the arguments; padding of small arrays is here too.
        optimizer_state=max(0, found.argument_size_in_bytes - sum(sizes.values())),
        temporaries=found.temp_size_in_bytes,
        outputs=max(0, found.output_size_in_bytes - found.alias_size_in_bytes),
        program=found.generated_code_size_in_bytes,
    )
    text = _text(compiled)
    return Compiled(memory, read_costs(text), seconds, text)


def _text(compiled: Any) -> str:
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as e:
        wanted = next(
            (r for r in importlib.metadata.requires("jax") or () if r.startswith("libtpu")), ""
        ).split(";")[0]
        raise InputError(
            f"jaxlib cannot read the program that this libtpu compiled ({str(e).splitlines()[0]}). "
            f"They have to be of one release: pip install '{wanted}'"
        ) from e
