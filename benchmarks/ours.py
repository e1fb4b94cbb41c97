"""Our side: a prompt or a prefix on a frozen T5 with random weights."""

import functools
import statistics

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import processes
from sizes import LEARNING_RATE, WEIGHT_DECAY, Size

from dpt_jax.devices import partitioning
from dpt_jax.evaluation.generation import Generator
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prefixes import FreePrefix
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.prompts import DecomposedPrompt
from dpt_jax.training.state import TrainState, merge_params, split_params
from dpt_jax.training.step import make_train_step


class Ours:
    """The parts of our trainer, put together without files."""

    def __init__(
        self,
        size: Size,
        dropout: float,
        stack: str | None = None,
        dtype: str = "float32",
        attention: str = "auto",
        remat_policy: str = "none",
    ):
        """Takes a decomposed prompt, or a free prefix in all layers of one stack.

        Args:
          size: the T5, the prompt and the batch.
          dropout: the dropout rate.
          stack: the prefix's stack; None takes the prompt.
          dtype: of the activations and the frozen weights.
          attention: what computes attention (`ATTENTION`).
          remat_policy: what is computed again in the backward pass (`REMAT_POLICY`).
        """
        config = T5Config(
            vocab_size=size.vocab_size,
            emb_dim=size.emb_dim,
            num_heads=size.num_heads,
            head_dim=size.head_dim,
            mlp_dim=size.mlp_dim,
            num_encoder_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            mlp_activations=("relu",),
            logits_via_embedding=True,
            dropout_rate=dropout,
            dtype=dtype,
            attention=attention,
            remat_policy=remat_policy,
        )
        if stack is None:
            prompt = DecomposedPrompt(size.prompt_length, size.emb_dim, size.bottleneck)
            self.model = Transformer(config, prompt)
        else:
            # In front of the text, as PEFT has it.
            prefix = FreePrefix(size.prefix_length, (stack,), position_bias="front")
            self.model = Transformer(config, prefix=prefix)
        tokens = jnp.ones((1, 8), jnp.int32)
        shapes = jax.eval_shape(
            lambda key: self.model.init(key, tokens, tokens, tokens, enable_dropout=False)[
                "params"
            ],
            jax.random.key(0),
        )
        rng = np.random.default_rng(0)
        # On the host: a large model's initializers take minutes to compile.
        params = jax.tree.map(lambda x: _random(rng, x.shape), shapes)
        # One XLA device per core, the batch split over them: the mesh of `MESH = (-1, 1, 1)`.
        self._mesh = partitioning.make_mesh()
        # From the host, as in training: the devices of a CPU then share one copy.
        params = jax.device_put(params, partitioning.replicated(self._mesh))
        trainable, frozen = split_params(params, "(prompt|prefix)/.*")
        # Those that are of this dtype already stay the devices' one copy.
        self._frozen = jax.tree.map(lambda x: x if x.dtype == dtype else x.astype(dtype), frozen)
        optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self._state = jax.device_put(
            TrainState.create(trainable, optimizer, seed=0), partitioning.replicated(self._mesh)
        )
        self._traceable_step = make_train_step(make_loss_fn(self.model), optimizer)
        self._step = jax.jit(self._traceable_step, donate_argnums=0)
        self._generators: dict[int, Generator] = {}
        self.compilations = 0
        jax.monitoring.register_event_duration_secs_listener(self._count_compilations)

    def _count_compilations(self, event: str, duration: float, **_) -> None:
        self.compilations += event == "/jax/core/compile/backend_compile_duration"

    def update_seconds(self, optimizer: optax.GradientTransformation, updates: int) -> float:
        """Median time of an optimizer's update by itself, the trained matrices as they are."""

        @jax.jit
        def update(gradients, state, params):
            changes, state = optimizer.update(gradients, state, params)
            return state, optax.apply_updates(params, changes)

        params = self._state.params
        keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
        keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
        gradients = jax.tree.map(lambda key, x: jax.random.normal(key, x.shape), keys, params)
        state = jax.jit(optimizer.init)(params)

        def run():
            jax.block_until_ready(update(gradients, state, params))

        run()
        return statistics.median(processes.seconds(run) for _ in range(updates))

    def train(self, batch: dict[str, np.ndarray]) -> float:
        """One step; returns the loss."""
        with partitioning.activate(self._mesh):
            placed = partitioning.put_batch(batch, self._mesh)
            self._state, metrics = self._step(self._state, self._frozen, placed)
        return float(metrics["loss"])

    def generate(self, tokens: np.ndarray, length: int) -> np.ndarray:
        """Greedy decoding of exactly `length` tokens per row."""
        if length not in self._generators:
            # No token is the end: both sides decode every position.
            self._generators[length] = Generator(self.model, self._mesh, length, eos_id=-1)
        params = merge_params(self._state.params, self._frozen)
        with partitioning.activate(self._mesh):
            placed = partitioning.put_batch({"tokens": tokens}, self._mesh)["tokens"]
            return np.asarray(self._generators[length](params, placed))

    def matmul_flop(self, batch: dict[str, np.ndarray]) -> int:
        """Operations in the matrix products of one step."""
        jaxpr = jax.make_jaxpr(self._traceable_step)(self._state, self._frozen, batch)
        return _matmul_flop(jaxpr.jaxpr)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a usual size: matrices that keep a vector's norm, and ones for layer norms."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)


def _matmul_flop(jaxpr) -> int:
    """Twice the multiplications in every matrix product of a program, as it was written.

    What the program recomputes or skips is counted so; elementwise work counts as none.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[i] for i in contracted]))
        for value in jax.tree.leaves(list(equation.params.values())):
            # Open and closed programs: those of `jit`, of custom derivatives, of loops' bodies.
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _matmul_flop(inner)
    return total


def matmul_gflop_per_second(n: int) -> float:
    """XLA's rate for one float32 product of two `[n, n]` matrices."""
    x = jnp.full((n, n), 0.5, jnp.float32)
    product = _product()
    product(x, x).block_until_ready()
    return (
        2e-9
        * n**3
        / min(processes.seconds(lambda: product(x, x).block_until_ready()) for _ in range(3))
    )


@functools.cache
def _product():
    return jax.jit(jnp.dot)
