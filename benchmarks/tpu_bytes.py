"""Where a training step's bytes go on a TPU, by kind of operation, before and after the kernels.

    python benchmarks/tpu_bytes.py --model=t5_1_0_small --topology=v6e:1x1 --batch=256

Compiles the step of the DPT paper's setting (see scaling.py) twice, with attention that holds its
scores and with the TPU's default, and prints the gigabytes that each part of the network moves to
and from a chip's memory, forth and back. No TPU is needed. `--layers=2` takes so many encoder and
decoder layers, for a quick look.
"""

import argparse
import collections
import dataclasses
import re

# The first pattern that an operation's name matches says its kind.
KINDS = (
    ("attention, encoder", r"encoder/.*attention/(?!(query|key|value|out)/)"),
    ("attention, decoder", r"decoder/.*attention/(?!(query|key|value|out)/)"),
    ("position bias", r"relpos_bias"),
    ("attention's projections", r"attention/(query|key|value|out)/"),
    ("layer norm", r"layer_norm|(en|de)coder_norm"),
    ("MLP", r"/mlp/"),
    ("embedding and logits", r"token_embedder|logits|log_softmax|loss"),
    ("residuals", r"/layers_\d+/"),
)


def kind_of(name: str) -> str:
    """The kind of operation that a name in the program belongs to."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")


def bytes_by_kind(text: str) -> dict[str, float]:
    """Bytes moved by each kind of operation, of a compiled program's text."""
    from dpt_jax.planning.compiled import read_costs

    total: dict[str, float] = collections.Counter()
    for work in read_costs(text).work:
        total[kind_of(work.name)] += work.bytes * work.times
    return total


def compile_step(options: argparse.Namespace, attention: str) -> str:
    """The text of the compiled training step."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import scaling

    from dpt_jax import gin_utils
    from dpt_jax.devices import partitioning
    from dpt_jax.planning import ahead_of_time
    from dpt_jax.planning.tpus import parse_topology
    from dpt_jax.training.config import RunConfig

    files = ["runs/prompt_train.gin", f"models/{options.model}.gin", "recipes/paper.gin"]
    bindings = [*scaling.BINDINGS, f"BATCH_SIZE = {options.batch}", f"ATTENTION = {attention!r}"]
    gin_utils.parse([*files, "recipes/tpu.gin"], bindings)
    config = gin_utils.build(RunConfig)
    if options.layers:
        layers = dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), options.layers)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **layers))
    devices = ahead_of_time.tpu_devices(parse_topology(options.topology))
    return ahead_of_time.compile_train_step(config, partitioning.make_mesh(devices=devices)).text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="t5_1_0_small", help="a model's gin file")
    parser.add_argument("--topology", default="v6e:1x1", help="chip and slice")
    parser.add_argument("--batch", type=int, default=256, help="batch size")
    parser.add_argument("--layers", type=int, help="encoder and decoder layers, instead of all")
    options = parser.parse_args()
    before, after = (bytes_by_kind(compile_step(options, name)) for name in ("plain", "auto"))
    print("| kind | plain, GB | kernels, GB |\n| --- | --- | --- |")
    for kind in sorted({*before, *after}, key=lambda k: -before.get(k, 0.0)):
        print(f"| {kind} | {before.get(kind, 0) / 1e9:.2f} | {after.get(kind, 0) / 1e9:.2f} |")


if __name__ == "__main__":
    main()
