"""Whether a run fits TPUs that are not there, how fast it can be, and which mesh suits it best."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.planning.ahead_of_time import (
    Compiled,
    CompilerRefused,
    check,
    compile_decoding,
    compile_train_step,
    tpu_devices,
    weight_bytes,
)
from dpt_jax.planning.roofline import Estimate, estimate
from dpt_jax.planning.tpus import GIBIBYTE, Slice
from dpt_jax.progress import clock, told_while
from dpt_jax.training.config import RunConfig

# A search gives up growing or shrinking a batch after this many compilations of the whole model.
_WHOLE_COMPILATIONS = 4
# Activations that say how memory grows: well above what stays in a chip's fast memory.
_SEEN = GIBIBYTE // 2


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run, with its estimated time on the slice."""

    compiled: Compiled
    estimate: Estimate

    def to_json(self) -> dict[str, Any]:
        """Bytes, operations and seconds, a chip."""
        costs, memory = self.compiled.costs, self.compiled.memory
        return {
            "hbm_bytes_per_chip": memory.total,
            "memory_bytes_per_chip": dataclasses.asdict(memory),
            "flops_per_chip": costs.flops,
            "hbm_traffic_bytes_per_chip": costs.bytes,
            "collective_bytes_per_chip": costs.collective_bytes,
            "collectives": costs.by_kind(),
            "estimated_step_seconds": self.estimate.total,
            "estimated_seconds": dataclasses.asdict(self.estimate),
            "compile_seconds": round(self.compiled.compile_seconds, 1),
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on a slice, compiled.

    Attributes:
      config: the run.
      where: the slice.
      mesh: sizes of (data, fsdp, model).
      train: the training step, or None when the compiler refused it.
      decoding: the decoding of an evaluation batch; None when it was refused or not asked for.
      refusal: what the compiler said, or None.
    """

    config: RunConfig
    where: Slice
    mesh: tuple[int, int, int]
    train: Program | None
    decoding: Program | None = None
    refusal: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the compiler accepted every program."""
        return self.refusal is None

    @property
    def examples_per_second(self) -> float | None:
        """Estimated training speed of the whole slice."""
        return None if self.train is None else self.config.batch_size / self.train.estimate.total

    @property
    def tokens_per_second(self) -> float | None:
        """The same in tokens of text, sources and targets, the prompt not counted."""
        lengths = getattr(self.config, "task_feature_lengths", None)
        if lengths is None:
            return None  # Images have none.
        examples = self.examples_per_second
        return examples and examples * (lengths["inputs"] + lengths["targets"])

    def to_json(self) -> dict[str, Any]:
        """What `dpt plan --json` prints.

        Of a refused training step, the memory is what the compiler says it asked for, which may
        leave out its arguments, and the other numbers are null.
        """
        numbers: dict[str, Any] = dict.fromkeys(
            ("flops_per_chip", "collective_bytes_per_chip", "estimated_step_seconds")
        )
        numbers["hbm_bytes_per_chip"] = _asked(self.refusal)
        return {
            "topology": self.where.name,
            "chips": self.where.chips,
            "mesh": list(self.mesh),
            "batch_size": self.config.batch_size,
            "microbatches": self.config.microbatches,
            "remat_policy": self.config.model.remat_policy,
            "attention": getattr(self.config.model, "attention", None),  # A ViT has no choice.
            "fits": self.fits,
            "refusal": self.refusal,
            "hbm_limit_bytes": self.where.chip.usable_hbm_bytes,
            **(numbers if self.train is None else self.train.to_json()),
            "examples_per_second": self.examples_per_second,
            "tokens_per_second": self.tokens_per_second,
            "decoding": self.decoding and self.decoding.to_json(),
        }


def make_plan(
    config: RunConfig,
    where: Slice,
    decoding: bool = True,
    say: Callable[[str], None] | None = None,
) -> Plan:
    """Compiles a run for a slice.

    Args:
      config: the run, with its mesh and batch size.
      where: the slice.
      decoding: compile the decoding of an evaluation batch too.
      say: is told what is compiled, and now and then for how long.

    Raises:
      InputError: when libtpu is missing, or the mesh does not divide slice, model or batch.
    """
    sizes = partitioning.mesh_shape(config.mesh, where.chips)
    # What can be wrong is found before the first compilation, which may take a minute.
    abstract = AbstractMesh(sizes, partitioning.MESH_AXES)
    check(config, abstract)
    partitioning.check_batch("BATCH_SIZE", config.batch_size, abstract, config.microbatches)
    if decoding:
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, abstract)
    mesh = partitioning.make_mesh(sizes, tpu_devices(where))
    train = None
    try:
        with _told(say, "the training step"):
            train = _program(compile_train_step(config, mesh), where, mesh)
        with _told(say if decoding else None, "the decoding of an evaluation batch"):
            decoded = _program(compile_decoding(config, mesh), where, mesh) if decoding else None
    except CompilerRefused as e:
        which = "the training step" if train is None else "decoding"
        return Plan(config, where, sizes, train, refusal=f"{which}: {e}")
    return Plan(config, where, sizes, train, decoded)


@contextlib.contextmanager
def _told(say: Callable[[str], None] | None, what: str) -> Iterator[None]:
    """Says what is compiled, and for how long already: libtpu takes minutes for a large model."""
    if say is None:
        yield
        return
    say(f"compiling {what}")
    with told_while(lambda seconds: say(f"compiling {what}, {clock(seconds)} so far")):
        yield


def _program(compiled: Compiled, where: Slice, mesh: Mesh) -> Program:
    places = [device.coords[: len(where.shape)] for device in mesh.devices.flat]
    return Program(compiled, estimate(compiled.costs, where, places))


def _sizes(mesh: Mesh) -> tuple[int, int, int]:
    data, fsdp, model = (mesh.shape[axis] for axis in partitioning.MESH_AXES)
    return data, fsdp, model


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh in a search, with what is expected of the largest batch that it should hold.

    Attributes:
      mesh: sizes of (data, fsdp, model).
      batch_size: the largest batch that should fit; 0 when none does.
      examples_per_second: the estimated speed at that batch.
    """

    mesh: tuple[int, int, int]
    batch_size: int
    examples_per_second: float


def search(
    config: RunConfig, where: Slice, say: Callable[[str], None] = print, decoding: bool = True
) -> tuple[Plan, list[Candidate]]:
    """Finds the mesh with the highest estimated speed, and the largest batch that fits it.

    A layer costs what the layer before it costs. So every mesh is compiled with few layers, at two
    depths and two batch sizes, and memory and time of the whole model follow, as both are linear in
    depth and in batch; that takes seconds where whole models take minutes. The best mesh is then
    compiled whole, with the batch grown or shrunk until it is the largest the compiler accepts, up
    to a few hundredths.

    Args:
      config: the run; its mesh and batch sizes are ignored.
      where: the slice.
      say: is told what was tried.
      decoding: the decoding of an evaluation batch of the same size has to fit too.

    Returns:
      The plan of the best mesh, and all meshes, the fastest first.

    Raises:
      InputError: when libtpu is missing, or the optimizer cannot be used.
    """
    check(config, AbstractMesh((1, 1, 1), partitioning.MESH_AXES))
    devices = tpu_devices(where)
    candidates = []
    for shape in meshes(config, where):
        candidate = _expect(config, where, partitioning.make_mesh(shape, devices))
        say(
            f"MESH = {shape}: "
            + (
                f"BATCH_SIZE = {candidate.batch_size} should fit, an estimated "
                f"{candidate.examples_per_second:.1f} examples/s"
                if candidate.batch_size
                else "no batch fits"
            )
        )
        candidates.append(candidate)
    candidates.sort(key=lambda c: c.examples_per_second, reverse=True)
    if not candidates or not candidates[0].batch_size:
        raise InputError(
            f"Nothing fits {where.name}: no mesh holds the model with a batch. Set --topology to a "
            "larger slice, --gin.REMAT_POLICY=\"'full'\", or --gin.FROZEN_DTYPE=\"'bfloat16'\"."
        )
    return _largest_batch(config, where, candidates[0], say, decoding), candidates


def meshes(config: RunConfig, where: Slice) -> Iterator[tuple[int, int, int]]:
    """The meshes worth trying on a slice: those that divide the model and hold its weights.

    Of trained weights, gradient and optimizer state count as well.

    To gather weights over the fsdp axis costs more than to keep them. So for every model axis there
    is one fsdp axis: the smallest that leaves half of a chip's memory to the activations, or the
    largest there is.
    """
    chips, limit = where.chips, where.chip.usable_hbm_bytes
    for model in (n for n in range(1, chips + 1) if chips % n == 0):
        rest = chips // model
        found = None
        for fsdp in (n for n in range(1, rest + 1) if rest % n == 0):
            shape = (rest // fsdp, fsdp, model)
            try:
                weights = weight_bytes(config, AbstractMesh(shape, partitioning.MESH_AXES))
            except InputError:
                continue
            found = shape if weights < limit else None
            if weights < limit / 2:
                break
        if found is not None:
            yield found


def _with(config: RunConfig, mesh: tuple[int, int, int], batch_size: int, units: int = 0):
    """The run on another mesh, with another batch, and if asked with so few `_layers`."""
    model = config.model
    if units:
        encoder, decoder = _layers(config)
        model = dataclasses.replace(
            model, num_encoder_layers=units * encoder, num_decoder_layers=units * decoder
        )
    return dataclasses.replace(
        config, mesh=mesh, batch_size=batch_size, eval_batch_size=None, model=model
    )


def _layers(config: RunConfig) -> tuple[int, int]:
    """The fewest encoder and decoder layers of which the model is a multiple."""
    encoder, decoder = config.model.num_encoder_layers, config.model.num_decoder_layers
    units = math.gcd(encoder, decoder)
    return encoder // units, decoder // units


def _unit(config: RunConfig, mesh: Mesh) -> int:
    """What batch sizes are multiples of."""
    return mesh.shape["data"] * mesh.shape["fsdp"] * config.microbatches


def _expect(config: RunConfig, where: Slice, mesh: Mesh) -> Candidate:
    """What few layers and small batches say of the whole model on a mesh."""
    shape, unit = _sizes(mesh), _unit(config, mesh)
    depth = config.model.num_encoder_layers // _layers(config)[0]
    few, more = (1, min(3, depth))

    def compiled(units: int, batch: int) -> tuple[int, float]:
        """Bytes and seconds."""
        shallow = _with(config, shape, batch, units)
        program = _program(compile_train_step(shallow, mesh), where, mesh)
        return program.compiled.memory.total, program.estimate.total

    try:
        rows = 1.5 * _SEEN * where.chips / _bytes_of_a_row(config)
        batch = unit * math.ceil(rows / unit)
        while (at := compiled(few, batch))[0] - _weights(config, mesh, few) < _SEEN:
            batch *= 4
        found = {(few, batch): at, (few, 2 * batch): compiled(few, 2 * batch)}
        if more > few:
            found |= {(more, b): compiled(more, b) for b in (batch, 2 * batch)}
    except CompilerRefused:
        return Candidate(shape, 0, 0.0)

    def whole(quantity: int, rows: float) -> float:
        """Bytes (0) or seconds (1) of the whole model, linear in depth and rows."""

        def deep(rows: int) -> float:
            low, high = found[few, rows][quantity], found[more, rows][quantity]
            return low + (high - low) / max(1, more - few) * (depth - few)

        slope = (deep(2 * batch) - deep(batch)) / batch
        return deep(batch) + slope * (rows - batch)

    slope = max(whole(0, 1) - whole(0, 0), 1.0)
    largest = int((where.chip.usable_hbm_bytes - whole(0, 0)) / slope) // unit * unit
    if largest < unit:
        return Candidate(shape, 0, 0.0)
    return Candidate(shape, largest, largest / whole(1, largest))


def _bytes_of_a_row(config: RunConfig) -> float:
    """About what one encoder layer keeps of a row: MLP, arrays of the model's width, and scores."""
    model = config.model
    # The kernels that a TPU has by default keep none.
    scores = model.num_heads if model.attention == "plain" else 0
    length = config.task_feature_lengths["inputs"] + getattr(config.prompt, "length", 0)
    width = model.mlp_dim + 3 * model.num_heads * model.head_dim + 4 * model.emb_dim
    return model.dtype.itemsize * length * (width + scores * length)


def _weights(config: RunConfig, mesh: Mesh, units: int) -> int:
    return weight_bytes(_with(config, _sizes(mesh), config.batch_size, units), mesh)


def _largest_batch(
    config: RunConfig,
    where: Slice,
    candidate: Candidate,
    say: Callable[[str], None],
    decoding: bool,
) -> Plan:
    """Grows or shrinks the batch until the largest that the compiler accepts is known roughly."""
    limit, (data, fsdp, _) = where.chip.usable_hbm_bytes, candidate.mesh
    unit = data * fsdp * config.microbatches
    batch, too_large = candidate.batch_size, math.inf
    best = plan = make_plan(_with(config, candidate.mesh, batch), where, decoding, say)
    for left in range(_WHOLE_COMPILATIONS, 0, -1):
        if plan.fits and plan.train:
            best, memory = plan, plan.train.compiled.memory
            say(f"BATCH_SIZE = {batch} fits: {memory.total / GIBIBYTE:.2f} GiB per chip")
            grows = memory.batch + memory.temporaries
            wanted = batch * (1 + (limit - memory.total) / grows)
        else:
            say(f"BATCH_SIZE = {batch} does not fit")
            too_large = batch
            wanted = batch * min(0.9, limit / (_asked(plan.refusal) or limit))
        if best.fits and wanted >= too_large:
            wanted = (best.config.batch_size + too_large) / 2
        batch = max(unit, int(wanted) // unit * unit)
        fitting = best.config.batch_size if best.fits else 0
        if left == 1 or batch >= too_large or batch < 1.04 * fitting:
            break
        plan = make_plan(_with(config, candidate.mesh, batch), where, decoding, say)
    return best


def _asked(refusal: str | None) -> float | None:
    """The bytes that a program wanted, where the compiler says so."""
    found = re.search(r"[(\s](\d+(?:\.\d+)?)([KMG])\b", refusal or "")
    if found is None:
        return None
    return float(found.group(1)) * 1024 ** ("KMG".index(found.group(2)) + 1)
