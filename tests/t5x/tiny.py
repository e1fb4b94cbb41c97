"""A T5 of T5X with a few thousand parameters, and what T5X keeps around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from flax.core import freeze, unfreeze
from flax.traverse_util import flatten_dict
from t5x import adafactor, checkpoints, decoding, partitioning, train_state, trainer
from t5x.examples.t5 import network

from dpt_jax.models import T5Config
from dpt_jax.t5x.prompt_optimizer import PromptOptimizer
from dpt_jax.t5x.prompt_state import PromptTrainStateInitializer
from dpt_jax.t5x.prompted_model import PromptedModel
from dpt_jax.t5x.prompted_network import PromptedTransformer
from tests.models.random_weights import random_parameters

WIDTH, LENGTH, ROWS, SOURCE, TARGET = 32, 5, 3, 12, 6
FORMS = {
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "t5_1_1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}
SIZES = {
    "vocab_size": 64,
    "emb_dim": WIDTH,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 6,
    "mlp_dim": 40,
    "dropout_rate": 0.0,
}
VOCABULARY = seqio.PassThroughVocabulary(64, eos_id=1)


def config(form="t5_1_1", **changes) -> T5Config:
    """The tiny network's sizes."""
    return T5Config(**{**SIZES, **FORMS[form], **changes})


def model(
    cfg,
    prompt=None,
    optimizer=None,
    decode_fn=decoding.temperature_sample,
    prefix=None,
    microbatches=None,
    normalizing="NUM_REAL_TARGET_TOKENS",
):
    """T5X's own model around its own network, or around the prompted one."""
    plain = prompt is None and prefix is None
    module = network.Transformer(cfg) if plain else PromptedTransformer(cfg, prompt, prefix)
    return PromptedModel(
        module=module,
        input_vocabulary=VOCABULARY,
        output_vocabulary=VOCABULARY,
        optimizer_def=optimizer or PromptOptimizer(),
        decode_fn=decode_fn,
        loss_normalizing_factor=normalizing,
        microbatches=microbatches,
    )


def batch(seed=0):
    """A padded batch with T5X's names."""
    rng = np.random.default_rng(seed)
    source = rng.integers(2, 64, (ROWS, SOURCE)).astype(np.int32)
    target = rng.integers(2, 64, (ROWS, TARGET)).astype(np.int32)
    source[1, 7:], target[1, 4:], target[2, 2:] = 0, 0, 0
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": target,
        "decoder_loss_weights": (target > 0).astype(np.int32),
    }


def partitioner():
    """One device, with T5X's own rules."""
    return partitioning.PjitPartitioner(num_partitions=1)


def initializer(cfg, prompt, optimizer=None, training=True, prefix=None, **shapes):
    """What `t5x.train` makes of a model, or `t5x.eval` where it does not train."""
    return initializer_of(model(cfg, prompt, optimizer, prefix=prefix), training, **shapes)


def initializer_of(made, training=True, **shapes):
    """The same of a model that is there."""
    inputs = {name: array.shape for name, array in batch().items()} | shapes
    return PromptTrainStateInitializer(
        optimizer_def=made.optimizer_def if training else None,
        init_fn=made.get_initial_variables,
        input_shapes=inputs,
        partitioner=partitioner(),
        input_types=dict.fromkeys(inputs, jnp.int32),
    )


def write_t5x_checkpoint(folder, cfg, params=None, step=1000):
    """A plain T5 as T5X saves it while pretraining, with Adafactor's slots; returns its arrays."""
    optimizer = adafactor.Adafactor(logical_factor_rules=adafactor.standard_logical_factor_rules())
    shapes = {name: array.shape for name, array in batch().items()}
    variables = jax.eval_shape(
        lambda: model(cfg, optimizer=optimizer).get_initial_variables(jax.random.key(0), shapes)
    )
    params = params or random_parameters(cfg)
    variables = {**unfreeze(variables), "params": jax.tree.map(jnp.asarray, params)}
    state = train_state.FlaxOptimTrainState.create(optimizer, freeze(variables))
    state = state.replace_step(jnp.asarray(step, jnp.int32))
    checkpoints.Checkpointer(state, partitioner(), str(folder)).save(state)
    return folder / f"checkpoint_{step}", flatten_dict(params, sep="/")


def frozen(state):
    """The frozen parameters of a state as numpy arrays, names joined with "/"."""
    flat = flatten_dict(unfreeze(state.params), sep="/")
    own = ("prompt/", "prefix/")
    return {name: np.asarray(leaf) for name, leaf in flat.items() if not name.startswith(own)}


def prompt_of(state, part="prompt"):
    """The prompt's parameters of a state, or the prefix's, as nested numpy arrays."""
    return jax.tree.map(np.asarray, unfreeze(state.params[part]))


def trained_by_t5x(made, params, batches, rate):
    """A model's state after a step per batch, made by the functions that T5X's Trainer runs.

    Returns:
      The state, and the mean loss of every batch.
    """
    axes = initializer_of(made).global_train_state_shape.params_axes
    create = functools.partial(train_state.FlaxOptimTrainState.create, made.optimizer_def)
    state = jax.jit(create)(freeze({"params": params, "params_axes": axes}))
    step = jax.jit(functools.partial(trainer.train_with_lr, model=made, num_microbatches=None))
    losses = []
    for one in batches:
        state, metrics = step(state, one, jnp.float32(rate(state.step)), None)
        losses.append(float(metrics["loss"].compute()))
    return state, losses
