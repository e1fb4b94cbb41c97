"""`dpt convert` as a user meets it: what it prints, what it refuses, and what a break leaves."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.cli.main import main
from dpt_jax.interop import load_backbone, save_backbone
from dpt_jax.models import T5Config
from tests.models.random_weights import random_parameters
from tests.support import fake_bucket, processes, runs

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT.parent / "shared" / "data" / "t5x_goldens"
CONFIG = T5Config(
    vocab_size=512,
    emb_dim=64,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=32,
    mlp_dim=128,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def params():
    return random_parameters(CONFIG)


@pytest.fixture
def source(tmp_path, params):
    save_backbone(tmp_path / "source", CONFIG, params)
    return tmp_path / "source"


@pytest.fixture
def hugging_face(source, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "hf"), "--to", "hf"]) == 0
    capsys.readouterr()
    return tmp_path / "hf"


def refused(capsys, *arguments) -> str:
    """The message of a call that must end with status 2 and print one error."""
    assert main(["convert", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dpt convert: error: ")
    assert captured.err.count("\n") == 1
    assert "INITIAL_CHECKPOINT_PATH" not in captured.err
    return captured.err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def check_equal(folder, params):
    for name, array in flatten_dict(load_backbone(folder)[1], sep="/").items():
        np.testing.assert_array_equal(array, flatten_dict(params, sep="/")[name])


def test_the_last_line_says_what_was_made(source, tmp_path, capsys):
    target = tmp_path / "new" / "half"
    assert main(["convert", str(source), str(target), "--dtype", "bfloat16"]) == 0
    count = sum(array.size for array in flatten_dict(random_parameters(CONFIG), sep="/").values())
    assert capsys.readouterr().out.startswith(f"{target}: {count:,} parameters, bfloat16, ")


@pytest.mark.slow
def test_a_bucket_is_read_through_google_cloud_storages_own_protocol(tmp_path):
    if not GOLDENS.exists():
        pytest.skip("the checkpoints that T5X wrote are not on this machine")
    with fake_bucket.serve(GOLDENS) as env:
        url = "gs://some-bucket/t5_1_1/checkpoint_3"
        done = processes.run("dpt_jax", "convert", url, tmp_path / "ours", **env)
        missing = processes.run("dpt_jax", "convert", url + "0", tmp_path / "none", **env)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "ours", load_backbone(GOLDENS / "t5_1_1" / "checkpoint_3")[1])
    assert missing.returncode == 2
    assert "checkpoint_30 holds no T5X checkpoint" in missing.stderr
    assert names(tmp_path) == ["ours"]


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_that_looks_finished_and_a_rerun_succeeds(
    source, params, tmp_path
):
    before = names(tmp_path)
    broken = processes.run("tests.support.killed_conversion", 100_000, source, tmp_path / "target")
    assert broken.returncode == -signal.SIGKILL
    left = set(names(tmp_path)) - set(before)
    assert len(left) == 1 and left.pop().startswith(".target.tmp-")
    done = processes.run("dpt_jax", "convert", source, tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == sorted([*before, "target"])
    check_equal(tmp_path / "target", params)


@pytest.mark.slow
def test_the_work_of_a_conversion_that_still_runs_is_not_taken_for_a_leftover(source, tmp_path):
    from dpt_jax.files import atomic_folder

    with atomic_folder(tmp_path / "target") as running:
        (running / "half").write_text("")
        # Locks belong to processes, so that the second conversion needs one of its own.
        done = processes.run("dpt_jax", "convert", source, tmp_path / "target")
        assert done.returncode == 0, done.stderr
        assert (running / "half").exists()
        shutil.rmtree(tmp_path / "target")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["dpt", "hf"])
def test_a_disk_that_fills_up_is_one_message_and_leaves_nothing(source, tmp_path, to):
    before = names(tmp_path)

    # A file may grow to half of what is needed: the same way out as on a disk without space.
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from dpt_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    broken = processes.run("-c", limited, "convert", source, tmp_path / "new", "--to", to)
    assert broken.returncode == 2, broken.stderr
    assert "could not be written" in broken.stderr and "GB are needed" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert names(tmp_path) == before


def test_too_little_space_is_seen_before_anything_is_written(source, tmp_path, capsys):
    # A network of terabytes, whose weights are a hole in a file.
    header = json.loads((source / "backbone.json").read_text())
    sizes = header["config"]
    sizes["vocab_size"] = 2**32
    (source / "backbone.json").write_text(json.dumps(header))
    weights = source / "model.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    offset = 0
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        if 512 in entry["shape"]:
            entry["shape"][entry["shape"].index(512)] = 2**32
        nbytes = 4 * int(np.prod(entry["shape"], dtype=np.int64))
        entry["data_offsets"] = [offset, offset + nbytes]
        offset += nbytes
    text = json.dumps(table).encode()
    with open(weights, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    message = refused(capsys, source, tmp_path / "new")
    assert "needs 2199" in message and "GB free" in message
    assert not (tmp_path / "new").exists()


def test_a_target_that_holds_something_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert "full exists and is not empty" in refused(capsys, source, tmp_path / "full")
    assert names(tmp_path / "full") == ["notes"]
    assert "exists" in refused(capsys, source, tmp_path / "full" / "notes")


def test_source_and_target_may_not_be_the_same(source, params, capsys, monkeypatch):
    assert "same folder" in refused(capsys, source, source)
    monkeypatch.chdir(source.parent)
    assert "same folder" in refused(capsys, "source", source.parent / "x" / ".." / "source")
    check_equal(source, params)


def test_an_empty_target_is_filled(source, params, tmp_path):
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(source), str(tmp_path / "empty")]) == 0
    check_equal(tmp_path / "empty", params)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--to", "onnx"], "--to: invalid choice: 'onnx'"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ],
)
def test_unknown_choices_are_refused(source, tmp_path, capsys, arguments, named):
    with pytest.raises(SystemExit) as exit:
        main(["convert", str(source), str(tmp_path / "new"), *arguments])
    assert exit.value.code == 2
    assert named in capsys.readouterr().err


def test_a_gin_binding_is_refused(source, tmp_path, capsys):
    assert "no gin bindings" in refused(capsys, source, tmp_path / "new", "--gin.BATCH_SIZE=3")


def test_a_target_in_a_bucket_is_refused(source, capsys):
    assert "must be a folder on a disk" in refused(capsys, source, "gs://bucket/t5")


def test_a_missing_source_is_named(tmp_path, capsys):
    message = refused(capsys, tmp_path / "nowhere", tmp_path / "new")
    assert "no folder" in message and "Set SOURCE" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_truncated_file_is_refused_and_nothing_is_made(hugging_face, tmp_path, capsys, keep):
    weights = hugging_face / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    message = refused(capsys, hugging_face, tmp_path / "new")
    assert "model.safetensors is not a whole safetensors file" in message
    assert not (tmp_path / "new").exists()


def test_a_shape_that_does_not_fit_is_named_with_both_shapes(hugging_face, tmp_path, capsys):
    path = hugging_face / "config.json"
    path.write_text(path.read_text().replace('"d_ff": 128', '"d_ff": 127'))
    message = refused(capsys, hugging_face, tmp_path / "new")
    assert "encoder/layers_0/mlp/wi_0/kernel has shape (64, 128)" in message
    assert "config.json asks for (64, 127)" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.interop
def test_an_encoder_saved_alone_is_refused(tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="not installed (extra `interop`)")
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 32}
    encoder = transformers.T5EncoderModel(transformers.T5Config(**sizes))
    encoder.save_pretrained(tmp_path / "encoder")
    capsys.readouterr()
    message = refused(capsys, tmp_path / "encoder", tmp_path / "new")
    assert "T5EncoderModel" in message and "a whole T5" in message


def test_a_decoder_alone_is_refused(hugging_face, tmp_path, capsys):
    numpy = pytest.importorskip("safetensors.numpy")
    path = hugging_face / "model.safetensors"
    kept = {k: v for k, v in numpy.load_file(path).items() if not k.startswith("encoder")}
    numpy.save_file(kept, path)
    assert "holds no encoder" in refused(capsys, hugging_face, tmp_path / "new")


@pytest.mark.interop
def test_a_pickle_that_runs_code_is_refused_and_not_run(hugging_face, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")

    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (hugging_face / "model.safetensors").unlink()
    torch.save({"shared.weight": Payload()}, hugging_face / "pytorch_model.bin")
    message = refused(capsys, hugging_face, tmp_path / "new")
    assert "pytorch_model.bin is refused" in message
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_training_takes_any_format(tmp_path):
    ours = runs.save_backbone(tmp_path)
    assert main(["convert", str(ours), str(tmp_path / "hf"), "--to", "hf"]) == 0
    settings = {"TRAIN_STEPS": 2, "EVAL_PERIOD": 0}
    assert main(runs.arguments(tmp_path / "from_ours", ours, **settings)) == 0
    assert main(runs.arguments(tmp_path / "from_hf", tmp_path / "hf", **settings)) == 0
    expected = runs.prompt(tmp_path / "from_ours", 2)
    np.testing.assert_array_equal(runs.prompt(tmp_path / "from_hf", 2), expected)
