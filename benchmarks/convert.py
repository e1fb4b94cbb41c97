"""What it takes to convert a large T5 and to load it: seconds and peak memory.

    python benchmarks/convert.py [--folder DIR]

A T5 1.0 Large with random weights (2.95 GB in float32) is written as Hugging Face's folder into a
temporary folder of DIR, which needs 9 GB. Then, each in a process of its own: `dpt convert` makes
our folder of it and Hugging Face's folder of that, and the model is loaded from our folder and from
Hugging Face's, put on the devices as `dpt train` puts it, and read once by a compiled program.

The last line is a JSON object:
  model_bytes       size of the parameters
  convert_seconds, convert_peak_bytes
                    the whole command, Hugging Face to ours
  export_seconds, export_peak_bytes
                    ours to Hugging Face
  load_seconds, load_peak_bytes, load_peak_ratio
                    from our folder; the ratio is to model_bytes
  load_hugging_face_seconds, load_hugging_face_peak_bytes, load_hugging_face_peak_ratio
                    from Hugging Face's folder
Peak memory is the largest resident set, mapped files included, Python and JAX included.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zlib

import processes

SIZES = {
    "large": {"emb_dim": 1024, "num_heads": 16, "head_dim": 64, "mlp_dim": 4096, "layers": 24},
    "tiny": {"emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "layers": 1},
}


def config(size: str):
    """T5 1.0's network of that size."""
    from dpt_jax.models import T5Config

    sizes = dict(SIZES[size])
    layers = sizes.pop("layers")
    return T5Config(
        vocab_size=32128,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        logits_via_embedding=True,
        dropout_rate=0.0,
        **sizes,
    )


def make(size: str, folder: pathlib.Path) -> int:
    """Writes a random model as Hugging Face's folder, a parameter at a time; returns its bytes."""
    import numpy as np

    from dpt_jax.interop.hugging_face import write_folder
    from dpt_jax.interop.parameters import parameter_shapes
    from dpt_jax.tensors import Tensor

    def random(name, shape):
        def draw():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            scale = np.float32(shape[0] ** -0.5)
            return scale * rng.standard_normal(shape, np.float32)

        return Tensor(shape, np.dtype(np.float32), draw)

    model = config(size)
    tensors = {name: random(name, shape) for name, shape in parameter_shapes(model).items()}
    write_folder(folder, model, tensors)
    return sum(tensor.nbytes for tensor in tensors.values())


def load(size: str, folder: str) -> float:
    """Loads the model onto the devices and reads all of it; returns the seconds."""
    import jax
    import jax.numpy as jnp

    from dpt_jax.devices import partitioning
    from dpt_jax.devices.placement import place
    from dpt_jax.models import Transformer
    from dpt_jax.models.network import abstract_variables
    from dpt_jax.problems.first_values import open_frozen

    start = time.perf_counter()
    model = config(size)
    params = open_frozen(folder, model, 0)
    mesh = partitioning.make_mesh((-1, 1, 1))
    abstract = abstract_variables(Transformer(model))
    placed = place(params, partitioning.parameter_shardings(abstract, mesh))
    del params
    total = jax.jit(lambda tree: sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)))
    assert float(total(placed)) > 0
    return time.perf_counter() - start


def child(options: argparse.Namespace) -> None:
    """One measurement, whose peak memory is this process's."""
    if options.measure == "load":
        seconds = load(options.size, options.paths[0])
    else:
        from dpt_jax.cli.main import main

        start = time.perf_counter()
        if main(["convert", *options.paths, "--to", options.measure]):
            sys.exit(1)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": processes.peak_memory_bytes()}))


def measure(what: str, size: str, *paths: pathlib.Path) -> dict[str, float]:
    """Runs one measurement in a process of its own."""
    root = str(pathlib.Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, "--size", size, "--measure", what, *map(str, paths)]
    done = subprocess.run(
        command,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    shown = f"{result['seconds']:.1f} s, peak {result['peak_bytes'] / 1e9:.2f} GB"
    print(f"{what} {paths[0].name}: {shown}", flush=True)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--folder", metavar="DIR", help="where to put 9 GB for a while")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--size", default="large", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("dpt", "hf", "load"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        child(options)
        return
    size = "tiny" if options.tiny else "large"
    with tempfile.TemporaryDirectory(prefix="dpt-convert-", dir=options.folder) as name:
        source, ours, back = (pathlib.Path(name) / part for part in ("source", "ours", "back"))
        nbytes = make(size, source)
        results = {
            "convert": measure("dpt", size, source, ours),
            "export": measure("hf", size, ours, back),
            "load": measure("load", size, ours),
            "load_hugging_face": measure("load", size, source),
        }
    line: dict[str, float] = {"model_bytes": nbytes}
    for what, result in results.items():
        line |= {f"{what}_{name}": value for name, value in result.items()}
        if what.startswith("load"):
            line[f"{what}_peak_ratio"] = result["peak_bytes"] / nbytes
    print(json.dumps(line))


if __name__ == "__main__":
    main()
