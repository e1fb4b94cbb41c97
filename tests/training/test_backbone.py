"""A backbone goes from its files to the devices slice by slice."""

import json
import sys
import zlib

import numpy as np
import pytest

from dpt_jax import interop
from dpt_jax.interop.hugging_face import write_folder
from dpt_jax.interop.parameters import parameter_shapes
from dpt_jax.models import T5Config
from dpt_jax.problems.first_values import open_frozen
from dpt_jax.tensors import Tensor, fingerprint
from tests.support import processes, runs


def test_a_fingerprint_is_that_of_the_first_values_in_whatever_format(backbone, tmp_path):
    params = open_frozen(str(backbone), runs.T5, seed=0)
    write_folder(tmp_path / "hf", runs.T5, interop.open_backbone(backbone).tensors)
    transposed = open_frozen(str(tmp_path / "hf"), runs.T5, seed=0)

    expected = 0
    whole = interop.open_backbone(backbone).tensors
    for name in sorted(whole):
        values = whole[name].load()
        head = values.reshape(-1)[:256].astype(np.float32)
        expected = zlib.crc32(f"{name}{values.shape}".encode() + head.tobytes(), expected)
    assert fingerprint(params) == expected
    assert fingerprint(transposed) == expected


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """110 MB of a T5 in our format and in Hugging Face's, whose weights are the other way round."""
    folder = tmp_path_factory.mktemp("large")
    config = T5Config(
        vocab_size=8192,
        emb_dim=512,
        num_heads=8,
        num_encoder_layers=3,
        num_decoder_layers=3,
        head_dim=64,
        mlp_dim=2048,
        mlp_activations=("relu",),
        dropout_rate=0.0,
        logits_via_embedding=True,
    )

    def random(name, shape):
        def draw():
            return np.random.default_rng(zlib.crc32(name.encode())).random(shape, np.float32)

        return Tensor(shape, np.dtype(np.float32), draw)

    tensors = {name: random(name, shape) for name, shape in parameter_shapes(config).items()}
    interop.write_backbone(folder / "own", config, tensors)
    write_folder(folder / "hf", config, tensors)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_each_process_holds_its_own_share_once(large):
    wanted = [f"{large}/{name}={mesh}" for name in ("hf", "own") for mesh in ("1x1x8", "2x2x2")]
    wanted.append(f"{large}/hf=8x1x1")
    address = f"localhost:{processes.free_port()}"
    group = [
        processes.start([str(i), "2", address, *wanted], devices=4, module="tests.support.loading")
        for i in range(2)
    ]
    ends = processes.finish(group)
    size = (large / "own" / "model.safetensors").stat().st_size
    for status, out, err in ends:
        assert status == 0, err
        found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert len(found) == len(wanted)
        for name, line in zip(wanted, found, strict=True):
            assert line["growth"] < 1.5 * line["share"] + 10e6, (name, line)
        # Weights split over all devices are halved between two processes (but for layer norms),
        # and replicas are one array.
        assert found[0]["share"] == pytest.approx(size / 2, rel=0.01)
        assert found[-1]["share"] == pytest.approx(size, rel=0.01)
