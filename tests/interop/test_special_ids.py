"""A model whose padding, end or start is not T5's is refused wherever it is named."""

import json

import numpy as np
import pytest

from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop import open_backbone
from dpt_jax.interop.conversion import convert
from tests.support import runs


@pytest.fixture(params=["dpt", "hf"])
def folder(request, backbone, tmp_path):
    """The toy T5 in our format and in Hugging Face's."""
    convert(backbone, tmp_path / "hf", to="hf")
    if request.param == "dpt":
        convert(tmp_path / "hf", tmp_path / "dpt")
    return tmp_path / request.param


def change(path, entries):
    header = json.loads(path.read_text()) if path.exists() else {}
    stated = header.get("hugging_face", {}) if path.name == "backbone.json" else header
    stated.update(entries)
    path.write_text(json.dumps(header))


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": [1]},
        {"decoder_start_token_id": None, "forced_bos_token_id": None},
    ],
)
def test_t5s_ids_are_taken_in_every_way_that_they_are_written(folder, entries):
    for name in ("backbone.json", "config.json"):
        if (folder / name).exists():
            change(folder / name, entries)
    change(folder / "generation_config.json", entries)
    open_backbone(folder)


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"decoder_start_token_id": 5}, "decoder_start_token_id 5, but only T5s with 0"),
        ({"pad_token_id": 1}, "pad_token_id 1, but only T5s with 0"),
        ({"eos_token_id": 2}, "eos_token_id 2, but only T5s with 1"),
        ({"eos_token_id": [1, 5]}, r"eos_token_id \[1, 5\], but only T5s with 1"),
        ({"forced_bos_token_id": 7}, "forced_bos_token_id 7, but only T5s without it"),
    ],
)
@pytest.mark.parametrize("generation", [False, True])
def test_other_ids_are_refused_by_file_name_and_value(folder, entries, named, generation):
    name = "backbone.json" if (folder / "backbone.json").exists() else "config.json"
    path = folder / ("generation_config.json" if generation else name)
    change(path, entries)
    with pytest.raises(InputError, match=f"{path} says {named}.*INITIAL_CHECKPOINT_PATH"):
        open_backbone(folder)


@pytest.mark.slow
def test_every_command_refuses_them_before_any_work(backbone, tmp_path, capsys):
    folder, run = tmp_path / "hf", tmp_path / "run"
    convert(backbone, folder, to="hf")
    change(folder / "config.json", {"decoder_start_token_id": 5})
    prompt = tmp_path / "prompt.npy"
    np.save(prompt, np.zeros((runs.PROMPT_LENGTH, runs.WIDTH), np.float32))
    (tmp_path / "lines.txt").write_text("a b\n")
    training = runs.arguments(run, backbone, INITIAL_CHECKPOINT_PATH=str(folder))
    model = [argument for argument in training[1:] if "MODEL_DIR" not in argument]
    for argv in (
        training,
        ["predict", *model, f"--prompt={prompt}", f"--input={tmp_path / 'lines.txt'}"],
        ["inspect", str(folder)],
        ["convert", str(folder), str(tmp_path / "converted")],
        [
            *("export", f"--prompt={prompt}", "--format=peft", f"--base_model={folder}"),
            f"--output={tmp_path / 'adapter'}",
        ],
    ):
        assert main([str(argument) for argument in argv]) == 2
        err = capsys.readouterr().err
        assert "decoder_start_token_id 5" in err and "Traceback" not in err, argv
    for made in (run, tmp_path / "converted", tmp_path / "adapter"):
        assert not made.exists()
