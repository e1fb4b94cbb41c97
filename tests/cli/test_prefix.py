"""dpt prefix: what keys and values share, and the attention that a prefix gets."""

import json

import numpy as np
import pytest

from dpt_jax import interop
from dpt_jax.analysis import likeness
from dpt_jax.cli.main import main
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from tests.support import runs


def measured(capfd, *arguments):
    capfd.readouterr()
    assert main(["prefix", *map(str, arguments), "--json"]) == 0
    return json.loads(capfd.readouterr().out)["layers"]


def refused(capfd, *arguments):
    assert main(["prefix", *map(str, arguments)]) == 2
    return capfd.readouterr().err


@pytest.mark.slow
def test_a_sweep_of_runs_is_measured_on_its_task_and_drawn(backbone, tmp_path, capfd):
    folder, rows = tmp_path / "few", []
    for line, method, seed in (("A", "free", 0), ("B", "deep_shared", 1)):
        point = f"{method}{seed}"
        changes = {"TRAIN_STEPS": 1, "EVAL_PERIOD": 1, "NUM_BUCKETS": 1, "RANDOM_SEED": seed}
        argv = runs.arguments(folder / "points" / point, backbone, f"prefixes/{method}.gin")
        kept = [text for text in argv if "PROMPT" not in text and "BOTTLENECK" not in text]
        changed = [
            f"--gin.{name}={value}" for name, value in (changes | {"PREFIX_LENGTH": 6}).items()
        ]
        assert main([*kept, *changed]) == 0
        axes = {"method": line, "seed": seed}
        rows.append({"sweep": "few", "point": point, "axes": axes, "status": "done"})
    report = {"seeds": ["seed"], "names": {"A": "free", "B": "deep"}, "title": "Few"}
    (folder / "sweep.json").write_text(json.dumps({"report": report}))
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    layers = measured(capfd, folder, f"--output={tmp_path / 'drawn'}")
    assert [(one["line"], one["stack"], one["layer"]) for one in layers] == [
        (line, "encoder", 1) for line in ("free", "deep")
    ]
    run = folder / "points" / "deep_shared1"
    arrays = runs.exported(run, 1)
    keys, values = arrays["encoder_keys"], arrays["encoder_values"]
    cosine = np.mean(
        [
            np.dot(k, v) / np.linalg.norm(k) / np.linalg.norm(v)
            for k, v in zip(keys[0].reshape(6, -1), values[0].reshape(6, -1), strict=True)
        ]
    )
    assert layers[1]["cosine"] == pytest.approx(cosine, rel=1e-5)
    expected = likeness.canonical_correlation(keys, values, 1)[0]
    assert layers[1]["canonical_correlation"] == pytest.approx(expected)
    assert all(0 < one["mass"] < 1 for one in layers)
    for name in ("attention", "likeness"):
        assert (tmp_path / "drawn" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert len(measured(capfd, folder, "--only=method=A", "--no_attention")) == 1
    # A run alone gives what it gives among others, and its file as much without a model.
    [alone] = measured(capfd, run)
    assert alone | {"line": "deep"} == layers[1]
    file = run / "numpy_checkpoints" / "checkpoint_1" / "prefix.npz"
    [bare] = measured(capfd, file)
    assert bare == alone | {"line": str(file), "mass": None}


def test_what_has_no_prefix_is_said(tmp_path, capfd):
    interop.save_prompt(tmp_path / "p.npy", np.ones((4, 16), np.float32))
    assert "p.npy is a prompt; dpt rank measures prompts" in refused(capfd, tmp_path / "p.npy")
    array = np.ones((1, 1, 2, 3), np.float32)
    prefix = FoldedPrefix({"cross_keys": array, "cross_values": array})
    save_prefix(tmp_path / "prefix", prefix)
    assert "--only is for a sweep's folder" in refused(capfd, tmp_path / "prefix", "--only=a=b")
    # One token has no directions to compare.
    assert measured(capfd, tmp_path / "prefix") == [
        {
            "line": str(tmp_path / "prefix"),
            "stack": "cross",
            "layer": 1,
            "length": 1,
            "cosine": pytest.approx(1.0),
            "canonical_correlation": None,
            "mass": None,
        }
    ]
    assert main(["prefix", str(tmp_path / "prefix")]) == 0
    words = capfd.readouterr().out.split()
    assert words[words.index("cross") :] == ["cross", "1", "1", "1.000", "–", "–"]
