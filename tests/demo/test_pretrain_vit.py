"""The script that pretrained the images' demo's ViT, in short, and the ViT itself."""

import dataclasses

import jax
import numpy as np
import pytest

from dpt_jax import demo
from dpt_jax.data.contextual import FullTiled
from dpt_jax.data.images import Digits
from dpt_jax.demo import pretrain_vit
from dpt_jax.errors import InputError
from dpt_jax.interop.vit import open_vit
from dpt_jax.models.vit import VisionTransformer


def test_rolled_tiles_are_other_views_of_the_same():
    images = FullTiled(Digits()).load("validation", None, 1).pixels[:20]
    made = pretrain_vit.rolled(images, np.random.default_rng(0))
    for before, after in zip(images, made, strict=True):
        shifts = [np.roll(before, (i, j), (0, 1)) for i in range(8) for j in range(8)]
        assert any(np.array_equal(after, shift) for shift in shifts)
    assert len({image.tobytes() for image in made}) == 20
    assert not np.array_equal(images, made)


@pytest.mark.slow
def test_a_few_steps_learn_and_nothing_is_kept_below_the_threshold(tmp_path, capsys, monkeypatch):
    narrow = dataclasses.replace(pretrain_vit.CONFIG, emb_dim=16, mlp_dim=16, num_layers=1)
    monkeypatch.setattr(pretrain_vit, "CONFIG", narrow)
    arguments = ["--steps=12", "--batch-size=32", "--learning-rate=0.003"]
    poor, kept = tmp_path / "poor", tmp_path / "kept"
    assert pretrain_vit.main([*arguments, f"--output={poor}", "--threshold=1"]) == 1
    assert "Not kept" in capsys.readouterr().out and not (poor / "vit").exists()
    # What an earlier run left is told before the first step.
    with pytest.raises(InputError, match="poor exists and is not empty"):
        pretrain_vit.main([*arguments, f"--output={poor}"])
    assert pretrain_vit.main([*arguments, f"--output={kept}", "--threshold=0"]) == 0
    found = open_vit(kept / "vit", pretrain_vit.CONFIG)
    assert found.config.epsilon == 1e-6


@pytest.mark.slow
def test_the_vit_that_comes_with_the_package_knows_its_digits():
    backbone = open_vit(demo.vit_dir())
    assert backbone.config == pretrain_vit.CONFIG
    assert sum(tensor.nbytes for tensor in backbone.tensors.values()) < 1_000_000
    params: dict = {}
    for name, tensor in backbone.tensors.items():
        *path, leaf = name.split("/")
        place = params
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = np.asarray(tensor.load(), np.float32)
    model = VisionTransformer(pretrain_vit.CONFIG)
    images = FullTiled(Digits()).load("validation", None, 1)
    logits = jax.jit(model.apply)({"params": params}, pretrain_vit.normalized(images.pixels))
    assert np.mean(np.argmax(logits, -1) == images.labels) >= 0.85
