"""Pretrains the demo's backbone: `python -m dpt_jax.demo.pretrain --output DIR`.

Trains every parameter of a small T5 on the mixture of `dpt_jax.demo.skills` and writes a backbone
folder (`backbone.json`, `model.safetensors`, `sentencepiece.model`). `--shape` has other sizes than
those of the demo's own, to see what depends on them. Each evaluation
writes the weights to `DIR/step_N`, and a checkpoint from which the same command goes on; the last
weights become `DIR/backbone` only when every skill's validation accuracy reaches the threshold,
because the reasoning skills appear abruptly after thousands of steps and a run stopped before that
is of no use to anyone.

Batches are split over all devices. On a CPU, `XLA_FLAGS=--xla_force_host_platform_device_count=2`
makes a device of each of two cores, which is about twice as fast as one device with two threads.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpt_jax.demo import skills, vocabulary
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config, Transformer

SOURCE_LENGTH, TARGET_LENGTH = 36, 6

CONFIG = T5Config(
    vocab_size=256,
    emb_dim=128,
    num_heads=8,
    head_dim=16,
    num_encoder_layers=3,
    num_decoder_layers=2,
    mlp_dim=384,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)

#: What `--shape` takes: the demo's own T5 1.1; T5 1.0's form, one ReLU and tied embeddings; and
#: twice the demo's width and depth.
SHAPES: dict[str, dict[str, Any]] = {
    "demo": {},
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True, "mlp_dim": 512},
    "double": {
        "emb_dim": 256,
        "head_dim": 32,
        "mlp_dim": 768,
        "num_encoder_layers": 6,
        "num_decoder_layers": 4,
    },
}

#: The attention score of a normalized token against itself in the heads that start as matchers.
_MATCHING_SCORE = 5.6

#: Learning rates relative to the others'. T5's position biases and unit-variance embeddings
#: barely move at the rate that suits the kernels, and its queries, which carry no
#: 1/sqrt(head_dim), move too far.
RATE_MULTIPLIERS = {"rel_embedding": 30.0, "embedding": 4.0, "query": 0.5}

Batch = dict[str, np.ndarray]


def batches(
    examples: Iterator[skills.Example], encode, batch_size: int
) -> Iterator[tuple[list[str], Batch]]:
    """Groups examples into padded int32 arrays of T5X's feature names, with their skills.

    Args:
      examples: a stream; a shorter last batch is dropped.
      encode: maps a list of texts to a list of token id lists, without end-of-sequence.
      batch_size: rows of each array.

    Raises:
      ValueError: if a text does not fit `SOURCE_LENGTH` or `TARGET_LENGTH`.
    """
    for rows in _grouped(examples, batch_size):
        source = _padded(encode([row.inputs for row in rows]), SOURCE_LENGTH)
        target = _padded(encode([row.targets for row in rows]), TARGET_LENGTH)
        yield (
            [row.skill for row in rows],
            {
                "encoder_input_tokens": source,
                "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
                "decoder_target_tokens": target,
            },
        )


def _grouped(examples, size):
    examples = iter(examples)
    while len(rows := list(itertools.islice(examples, size))) == size:
        yield rows


def _padded(rows: list[list[int]], length: int) -> np.ndarray:
    tokens = np.full((len(rows), length), vocabulary.PAD_ID, np.int32)
    for i, row in enumerate(rows):
        if len(row) >= length:
            raise ValueError(f"A text of {len(row)} tokens and its end do not fit {length}.")
        tokens[i, : len(row)] = row
        tokens[i, len(row)] = vocabulary.EOS_ID
    return tokens


def initial_params(model: Transformer, seed: int) -> dict[str, Any]:
    """T5X's initialization, with the encoder's heads started as parts that reasoning needs.

    From T5's own start the reasoning skills stay at chance for very long: comparing words needs
    heads that find equal words and heads that look at neighbours, in successive layers. So heads
    0 to 2 start as token matchers (queries a multiple of keys, and away from the own position)
    and heads 3 to 6 start at the two positions before and the two after.
    """
    cfg = model.config
    blank = jnp.zeros((1, SOURCE_LENGTH), jnp.int32)
    target = jnp.zeros((1, TARGET_LENGTH), jnp.int32)
    init = jax.jit(functools.partial(model.init, enable_dropout=False))
    variables = init(jax.random.PRNGKey(seed), blank, target, target)
    params = jax.tree.map(np.array, variables["params"])
    encoder = params["encoder"]
    matchers = slice(0, 3 * cfg.head_dim)
    for i in range(cfg.num_encoder_layers):
        attention = encoder[f"layers_{i}"]["attention"]
        attention["query"]["kernel"][:, matchers] = (
            _MATCHING_SCORE / cfg.head_dim * attention["key"]["kernel"][:, matchers]
        )
    bias = encoder["relpos_bias"]["rel_embedding"]
    bias[0:3, 0] = -4.0
    # Buckets 1, 2 are the positions before; the positions after start at bucket 16.
    for head, bucket in zip(range(3, 7), (1, 17, 2, 18), strict=True):
        bias[head, bucket] = 5.0
    return params


def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam (b2 0.98) on gradients clipped at norm 1, with `RATE_MULTIPLIERS`.

    The rate is constant for the first six tenths, after a short warm-up, and then falls linearly
    to zero.
    """
    warmup, constant = min(200, steps // 10), steps * 6 // 10
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, learning_rate, max(warmup, 1)),
            optax.constant_schedule(learning_rate),
            optax.linear_schedule(learning_rate, 0.0, max(steps - constant, 1)),
        ],
        [warmup, constant],
    )

    def multiply(updates, state, params=None):
        del params

        def scaled(path, update):
            names = {key.key for key in path}
            factor = next((f for name, f in RATE_MULTIPLIERS.items() if name in names), 1.0)
            return factor * update

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.GradientTransformation(lambda params: optax.EmptyState(), multiply),
        optax.scale_by_learning_rate(schedule),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(model: Transformer, tx: optax.GradientTransformation, state, batch):
    """One update of `(params, opt_state)`; returns both after it, and the mean loss per token."""
    params, opt_state = state

    def loss_of(params):
        logits = model.apply({"params": params}, **batch, enable_dropout=False)
        targets = batch["decoder_target_tokens"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        weights = targets != vocabulary.PAD_ID
        return jnp.sum(losses * weights) / jnp.sum(weights)

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


@functools.partial(jax.jit, static_argnums=0)
def exact_matches(model: Transformer, params, batch) -> jax.Array:
    """For each row, whether greedy decoding would give exactly the target.

    Decided from the teacher-forced logits: greedy decoding gives the target if and only if each
    of its tokens is the most likely one after those before it.
    """
    logits: Any = model.apply({"params": params}, **batch, enable_dropout=False)
    targets = batch["decoder_target_tokens"]
    right = (jnp.argmax(logits, axis=-1) == targets) | (targets == vocabulary.PAD_ID)
    return jnp.all(right, axis=-1)


def skill_accuracies(
    model: Transformer, params, encode, *, examples: int = 192, seed: int = 0
) -> dict[str, float]:
    """Exact-match accuracy of every skill on validation texts that pretraining never saw."""
    streams = (
        itertools.islice(skills.skill_examples(skill, "validation", seed), examples)
        for skill in skills.SKILLS
    )
    right: dict[str, list[bool]] = {skill: [] for skill in skills.SKILLS}
    for names, batch in batches(itertools.chain.from_iterable(streams), encode, 64):
        for name, match in zip(names, exact_matches(model, params, batch).tolist(), strict=True):
            right[name].append(match)
    return {skill: sum(matches) / len(matches) for skill, matches in right.items() if matches}


def save(folder: pathlib.Path, config: T5Config, params, sentencepiece_model: bytes) -> None:
    """Writes a new backbone folder with its vocabulary; the weights are stored as bfloat16.

    Raises:
      InputError: if the folder exists and is not empty.
    """
    from dpt_jax.interop import save_backbone

    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params)
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary_file = pathlib.Path(scratch) / "sentencepiece.model"
        vocabulary_file.write_bytes(sentencepiece_model)
        save_backbone(folder, config, half, [vocabulary_file])


def pretrain(
    output: pathlib.Path,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 8e-4,
    evaluation_period: int = 500,
    threshold: float = 0.95,
    evaluation_examples: int = 192,
    start: pathlib.Path | None = None,
    shape: str = "demo",
) -> dict[str, float]:
    """Pretrains and writes the backbone; see the module's docstring.

    Returns:
      The final validation accuracy of every skill. `output/backbone` exists if and only if all
      of them reach `threshold`.

    Raises:
      InputError: when `output` holds a run of other settings.
    """
    import orbax.checkpoint as ocp
    import sentencepiece

    settings = {
        "shape": shape,
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "start": None if start is None else str(start),
    }
    proto = vocabulary.train_vocabulary(vocabulary.corpus())
    encode = sentencepiece.SentencePieceProcessor(model_proto=proto).encode
    config = dataclasses.replace(CONFIG, **SHAPES[shape])
    model, tx = Transformer(config), optimizer(learning_rate, steps)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = initial_params(model, seed)
    if start is not None:
        from dpt_jax.interop import load_backbone

        params = jax.tree.map(lambda x: np.asarray(x, np.float32), load_backbone(start, config)[1])
    state = jax.device_put((params, tx.init(params)), everywhere)
    kept = ocp.CheckpointManager(
        (output / "checkpoints").absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1)
    )
    first = kept.latest_step() or 0
    if first:
        was = kept.restore(first, args=ocp.args.Composite(settings=ocp.args.JsonRestore()))
        if was["settings"] != settings:
            raise InputError(
                f"--output: {output} holds a run with {was['settings']}, and this one has "
                f"{settings}. Name a new folder, or give that run's flags to go on with it."
            )
        there = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
        state = kept.restore(first, args=ocp.args.Composite(state=there))["state"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{count:,} parameters, {steps} steps of {batch_size} examples, seed {seed}", flush=True)

    def accuracies_now() -> dict[str, float]:
        return skill_accuracies(model, state[0], encode, examples=evaluation_examples, seed=seed)

    stream = batches(skills.mixture("train", seed), encode, batch_size)
    losses: list[jax.Array] = []
    accuracies = accuracies_now() if first == steps else {}
    began = time.perf_counter()
    for step, (_, batch) in enumerate(itertools.islice(stream, first, steps), start=first + 1):
        # One step in flight: with more, the devices of a CPU can wait for each other forever.
        jax.block_until_ready(losses[-1:])
        state, loss = train_step(model, tx, state, jax.device_put(batch, by_rows))
        losses.append(loss)
        if step % evaluation_period == 0 or step == steps:
            accuracies = accuracies_now()
            seconds = time.perf_counter() - began
            print(f"step {step} loss {np.mean(losses):.4f} {seconds:.0f} s", flush=True)
            print("  " + " ".join(f"{k} {v:.3f}" for k, v in accuracies.items()), flush=True)
            losses = []
            if not (output / f"step_{step}").exists():
                save(output / f"step_{step}", config, state[0], proto)
            both = {
                "state": ocp.args.StandardSave(state),
                "settings": ocp.args.JsonSave(settings),
            }
            kept.save(step, args=ocp.args.Composite(**both))
            # The next step gives these arrays away.
            kept.wait_until_finished()
    kept.close()
    passed = all(accuracy >= threshold for accuracy in accuracies.values())
    if passed and not (output / "backbone").exists():
        save(output / "backbone", config, state[0], proto)
    return accuracies


def main(argv: list[str] | None = None) -> int:
    """Runs `pretrain` from command line flags; returns 1 where the backbone was not kept."""
    parser = argparse.ArgumentParser(prog="python -m dpt_jax.demo.pretrain", description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--start", type=pathlib.Path, help="backbone folder to continue from")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--evaluation-period", type=int, default=500)
    parser.add_argument("--evaluation-examples", type=int, default=192)
    parser.add_argument("--threshold", type=float, default=0.95)
    args = vars(parser.parse_args(argv))
    accuracies = pretrain(**args)
    failing = {k: v for k, v in accuracies.items() if v < args["threshold"]}
    if failing:
        print(f"Not kept: below {args['threshold']}: {failing}. Train longer (--steps).")
        return 1
    print(f"Kept: {args['output'] / 'backbone'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
