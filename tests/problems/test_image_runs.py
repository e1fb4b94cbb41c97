"""Images are another problem for the same trainer."""

import ast
import dataclasses
import json
import signal

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax import gin_utils
from dpt_jax.cli import demo_images
from dpt_jax.cli.main import main
from dpt_jax.data.images import Digits, Images
from dpt_jax.devices import agreement, partitioning
from dpt_jax.errors import InputError
from dpt_jax.prefixes import FreePrefix, SimpleSharedPrefix
from dpt_jax.problems import images, kinds
from dpt_jax.prompts import DecomposedPrompt, VanillaPrompt
from dpt_jax.sweeps import population
from dpt_jax.training.run import Run
from dpt_jax.training.state import merge_params
from tests.support import image_runs, processes, runs, vits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return image_runs.save(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def run(vit, tmp_path_factory):
    """A finished run of a deep decomposed prompt, by the command."""
    folder = tmp_path_factory.mktemp("runs") / "deep"
    files = ("prompts/decomposed_vpt.gin",)
    macros = {"PROMPT_PLACEMENT": "deep", "BOTTLENECK": 2, "SHARED_A": True}
    arguments = image_runs.arguments(folder, vit, *files, **macros)
    assert main(arguments) == 0
    return folder, arguments


def test_a_run_leaves_what_a_run_leaves(run, vit):
    folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    # A [3, 2] for all layers, B [2, 16] for each of two, and a head for ten classes.
    assert summary["trainable_parameters"] == 3 * 2 + 2 * 2 * 16 + 16 * 10 + 10
    assert summary["metrics"]["digits_k5_s0"].keys() == {"accuracy", "cross_entropy"}
    lines = (folder / "predictions" / "digits_k5_s0_6.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    right = [record["target"] == record["prediction"] for record in records]
    assert len(records) == 100
    logged = [line for line in runs.metrics(folder) if line["split"] == "validation"]
    assert logged[-1]["accuracy"] == pytest.approx(np.mean(right))
    kept = folder / "numpy_checkpoints" / "checkpoint_6"
    factors = np.load(kept / "prompt_params.npz")
    product = factors["all_layers/A"] @ factors["all_layers/B"]
    prompt = np.load(kept / "prompt.npy")
    assert prompt.shape == (2, 3, 16)
    np.testing.assert_allclose(prompt[1], product[:, 16:], atol=1e-6)
    assert np.load(kept / "head.npz")["head/kernel"].shape == (16, 10)
    drawn = json.loads((folder / "images.json").read_text())
    assert len(drawn["drawn"]) == 50 and len(drawn["classes"]) == 10


def test_inspect_and_evaluate_know_the_run(run, capsys):
    folder, _ = run
    assert main(["inspect", str(folder)]) == 0
    assert "a run of dpt train on images" in capsys.readouterr().out
    assert main(["evaluate", f"--model_dir={folder}", "--step=6"]) == 0
    found = json.loads(capsys.readouterr().out)
    logged = [line for line in runs.metrics(folder) if line["split"] == "validation"]
    assert found["metrics"]["digits_k5_s0"]["accuracy"] == pytest.approx(logged[-1]["accuracy"])


@pytest.mark.parametrize(
    ("command", "flag"), [("evaluate", "--no_prompt"), ("predict", "--prompt=a.npy")]
)
def test_a_command_for_text_names_what_is_of_images(run, capsys, command, flag):
    folder, arguments = run
    given = [a for a in arguments[1:] if "MODEL_DIR" not in a and "SHARED_A" not in a]
    capsys.readouterr()
    assert main([command, *given, flag]) == 2
    assert "but that of --gin_file is one on images." in capsys.readouterr().err
    assert main([command, f"--model_dir={folder}", flag]) == 2
    assert f"but {folder} is one on images." in capsys.readouterr().err


def test_a_run_that_goes_on_is_an_unbroken_one(run, vit, tmp_path, monkeypatch):
    """A signal after the fourth step; the same command then takes the last two."""
    folder, arguments = run
    again = [a.replace(str(folder), str(tmp_path / "again")) for a in arguments]

    def stop(step, received):
        if step == 4:
            received.append(signal.SIGTERM)
        return bool(received)

    with monkeypatch.context() as patched:
        patched.setattr(agreement, "should_stop", stop)
        assert main(again) == 128 + signal.SIGTERM
    assert not (tmp_path / "again" / "numpy_checkpoints" / "checkpoint_6").exists()
    assert main(again) == 0
    whole, parts = (
        path / "numpy_checkpoints" / "checkpoint_6" for path in (folder, tmp_path / "again")
    )
    for name in ("prompt.npy", "head.npz", "prompt_params.npz"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    for ours, theirs in zip(runs.metrics(tmp_path / "again"), runs.metrics(folder), strict=True):
        assert ours == theirs


def test_a_mesh_of_eight_devices_trains_the_same(run, tmp_path):
    """Data, fsdp and model axes of two each."""
    folder, arguments = run
    meshed = [a.replace(str(folder), str(tmp_path / "meshed")) for a in arguments]
    done = processes.run("dpt_jax", *meshed, "--gin.MESH=(2, 2, 2)", devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    for ours, theirs in zip(runs.metrics(tmp_path / "meshed"), runs.metrics(folder), strict=True):
        for name in ("loss", "accuracy", "cross_entropy"):
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=1e-4)


def test_another_run_in_the_folder_is_refused(run, capsys):
    _, arguments = run
    assert main([*arguments, "--gin.DRAW_SEED=1"]) == 2
    assert "task.draw: saved '_k5_s0', now '_k5_s1'" in capsys.readouterr().err
    assert main([*arguments, "--gin.LEARNING_RATE_PEAK=0.5"]) == 2
    assert "LEARNING_RATE_PEAK: saved 0.1, now 0.5" in capsys.readouterr().err


METHODS = {
    "probe": {"prompt": None},
    "shallow": {"prompt": VanillaPrompt(2)},
    "deep": {"prompt": DecomposedPrompt(2, bottleneck=2), "prompt_placement": "deep"},
    "hidden": {"prompt": VanillaPrompt(2), "prompt_placement": "hidden"},
    "prefix": {"prompt": None, "prefix": SimpleSharedPrefix(2), "prompt_dropout": 0.1},
    "partial": {"prompt": None, "fine_tune": 1},
    "full": {"prompt": None, "fine_tune": "all"},
}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_changes_and_nothing_else(vit, tmp_path, method):
    config = image_runs.config(
        tmp_path, vit, eval_period=0, train_steps=2, optimizer=optax.adam, **METHODS[method]
    )
    problem = images.prepare(config).problem()
    mesh = partitioning.make_mesh()
    with partitioning.activate(mesh):
        run = Run(config, problem, mesh)
        rows = np.arange(config.batch_size)
        for step in range(2):
            batch = partitioning.put_batch(problem.data.batch(step, rows), mesh)
            run.state, metrics = run.train_step(run.state, run.frozen, batch)
    run.checkpoints.close()
    assert np.isfinite(metrics["loss"])
    after = flatten_dict(jax.device_get(merge_params(run.state.params, run.frozen)), sep="/")
    changed = {
        name
        for name, array in after.items()
        if not np.array_equal(array, np.asarray(flatten_dict(problem.params, sep="/")[name]))
    }
    new = {"head/kernel", "head/bias"}
    backbone = {name for name in vits.flat_parameters() if not name.startswith("head/")}
    expected = {
        "probe": new,
        "shallow": new | {"prompt/prompt"},
        "deep": new | {f"prompt/layers_{i}/{x}" for i in (0, 1) for x in "AB"},
        "hidden": new
        | {f"prompt/layers_{i}/prompt" for i in (0, 1)}
        | {"prompt_head/kernel", "prompt_head/bias"},
        "prefix": new | {"prefix/encoder_rows"},
        "partial": new
        | {n for n in backbone if n.startswith(("encoder/layers_1/", "encoder/encoder_norm"))},
        "full": new | backbone,
    }[method]
    # A key's bias adds the same to all scores of a query, and so never has a gradient.
    noise = {name for name in backbone if name.endswith("attention/key/bias")}
    assert changed - noise == expected - noise


def test_an_update_is_that_of_optax_by_hand(vit, tmp_path):
    """A linear probe is logistic regression on what the frozen ViT gives."""
    config = image_runs.config(tmp_path, vit, prompt=None, eval_period=0, optimizer=optax.sgd)
    prepared = images.prepare(config)
    problem = prepared.problem()
    batch = problem.data.batch(0, np.arange(16))
    bare = images.VisionTransformer(dataclasses.replace(vits.CONFIG, num_classes=0))
    features = vits.applied(bare)(
        {k: v for k, v in vits.parameters().items() if k != "head"},
        (batch["images"] / np.float32(255) - 0.5) / 0.5,
    )
    features = np.asarray(features)
    error = np.full((16, 10), 0.1) - np.eye(10)[batch["labels"]]
    expected = features.T @ error
    split = {"head": problem.params["head"]}
    frozen = {k: v for k, v in problem.params.items() if k != "head"}
    frozen = jax.tree.map(np.asarray, frozen)
    (loss, count), grads = jax.jit(jax.value_and_grad(problem.loss_fn, has_aux=True))(
        split, frozen, batch, jax.random.key(0)
    )
    assert float(loss) == pytest.approx(16 * np.log(10), rel=1e-5) and count == 16
    np.testing.assert_allclose(grads["head"]["kernel"], expected, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Broken:
    """Images with something wrong about them."""

    name = "broken"
    shape: tuple = (8, 8, 3)
    label: int = 0
    mask: tuple | None = None

    def load(self, split, size, channels):
        del split, size, channels
        mask = None if self.mask is None else np.ones((4, *self.mask), bool)
        labels = np.array([0, 1, 0, self.label])
        names = tuple(f"image {i}" for i in range(4))
        return Images(np.zeros((4, *self.shape), np.uint8), labels, ("a", "b"), names, mask)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": Broken((6, 8, 3))}, r"images are 6 x 8 pixels, but the ViT takes 8 x 8.*RESIZE"),
        ({"data": Broken((9, 9, 3))}, r"images are 9 x 9 pixels, but the ViT takes 8 x 8.*RESIZE"),
        ({"data": Broken((8, 8, 1))}, "images have 1 channels, but the ViT takes 3"),
        ({"data": Broken(label=2)}, "image 3 has the label 2, but there are 2 classes"),
        (
            {"data": Broken(mask=(4, 4))},
            r"mask.*shape \(4, 4, 4\), but the images have \(4, 8, 8\)",
        ),
        ({"shots": 1000}, "SHOTS = 1000 images of class '0' cannot be drawn"),
        ({"eval_split": "dev"}, "no split 'dev'; it has train, validation, test"),
        ({"batch_size": 16, "initial_checkpoint_path": "/nowhere"}, "There is no /nowhere"),
    ],
)
def test_input_that_cannot_be_used_is_told_before_anything_is_written(
    vit, tmp_path, changes, message
):
    fields = {"shots": None} | changes
    with pytest.raises(InputError, match=message):
        images.train(image_runs.config(tmp_path / "run", vit, **fields))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt_placement": "everywhere"}, "PROMPT_PLACEMENT is 'everywhere'"),
        ({"fine_tune": 3}, "FINE_TUNE is 3; it must be the number of last layers to train, 0 to 2"),
        ({"shared_a": True}, "SHARED_A = True needs a decomposed prompt"),
        ({"prompt": None, "prompt_placement": "hidden"}, "'hidden', but there is no prompt"),
        ({"prompt": VanillaPrompt(3, 20)}, r"The prompt is 20 wide \(EMBED_DIM\), the ViT 16"),
        ({"prefix": FreePrefix(2, ("decoder",))}, "a ViT has an encoder alone"),
        ({"shots": 2, "percent": 10}, "both say how much to draw"),
        ({"percent": 0}, "PERCENT is 0"),
        ({"image_mean": (0.5, 0.5)}, "IMAGE_MEAN is .* a number, or 3 of them"),
        ({"image_std": 0.0}, "IMAGE_STD is 0.0; it must be above 0"),
        ({"image_mean": float("nan")}, "IMAGE_MEAN is nan"),
        (
            {"prompt": VanillaPrompt},
            r"PROMPT is .*; it must be one like @prompts.VanillaPrompt\(\)",
        ),
        ({"data": Digits}, r"DATA is .*; it must be one like @images.Digits\(\)"),
        ({"augmentation": "cut"}, "AUGMENTATION is 'cut'; it must be one of none, crop, pad"),
        ({"prompt_dropout": 1.0}, "PROMPT_DROPOUT is 1.0; it must be from 0 to below 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        image_runs.config(tmp_path, None, **changes)


def test_draws_do_not_depend_on_the_method_or_the_runs_seed(vit, tmp_path):
    drawn = [
        images.prepare(image_runs.config(tmp_path, vit, **changes)).data.images.ids
        for changes in ({}, {"prompt": None, "fine_tune": "all", "random_seed": 5}, {"shots": 8})
    ]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) < set(drawn[2])
    other = images.prepare(image_runs.config(tmp_path, vit, draw_seed=1)).data.images.ids
    assert other != drawn[0]
    assert Digits().load("train", None, 3).ids[0].startswith("digits/")


def test_a_sweep_trains_points_on_images_together(run, tmp_path, monkeypatch):
    """Points of two ranks and of one; that of `run` becomes what it is alone."""
    folder, arguments = run
    files = [a.removeprefix("--gin_file=") for a in arguments if a.startswith("--gin_file=")]
    bound = [a.removeprefix("--gin.").split("=", 1) for a in arguments if a.startswith("--gin.")]
    bindings = {name: ast.literal_eval(value) for name, value in bound if name != "MODEL_DIR"}
    del bindings["BOTTLENECK"], bindings["SHOTS"]
    (tmp_path / "four.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom dpt_jax import sweeps\n"
        f"sweeps.Sweep:\n  name = 'four'\n  gin_files = {files!r}\n  bindings = {bindings!r}\n"
        "  grid = {'BOTTLENECK': (1, 2), 'SHOTS': (4, 5)}\n"
    )
    assert main(["sweep", str(tmp_path / "four.gin"), f"--output={tmp_path}"]) == 0
    points = tmp_path / "four" / "points"
    lines = (tmp_path / "four" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done"] * 4
    logs = [path.read_text() for path in (tmp_path / "four" / "logs").iterdir()]
    assert sum("Trains together with" in log for log in logs) == 3
    found = points / "BOTTLENECK=2,SHOTS=5"
    for ours, theirs in zip(runs.metrics(found), runs.metrics(folder), strict=True):
        for name in ("step", "loss", "accuracy", "cross_entropy"):
            assert ours.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=1e-4)
    for name in ("head.npz", "prompt_params.npz"):
        ours, theirs = (
            np.load(path / "numpy_checkpoints" / "checkpoint_6" / name) for path in (found, folder)
        )
        for array in theirs:
            np.testing.assert_allclose(ours[array], theirs[array], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": DecomposedPrompt(2, bottleneck=1), "prompt_placement": "hidden"},
        {"prompt": VanillaPrompt(2), "prefix": SimpleSharedPrefix(2)},
    ],
)
def test_folded_parameters_are_another_form_of_the_same_network(vit, tmp_path, changes):
    prepared = images.prepare(image_runs.config(tmp_path, vit, **changes))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    drawn = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + drawn.normal(0, 0.1, x.shape).astype(x.dtype), prepared.placed
    )
    expected = jax.jit(prepared.model.apply)({"params": params}, pixels / 255 * 2 - 1)
    found = jax.jit(prepared.logits)(prepared.folded(params), pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_runs_that_do_not_fit_together_are_told_apart(vit, tmp_path):
    one = image_runs.config(tmp_path / "one", vit)
    for changes, reason in (
        ({"prompt_placement": "deep"}, "they differ in ImageRunConfig.prompt_placement"),
        ({"data": Digits((0, 1))}, "they differ in ImageRunConfig.data"),
    ):
        other = dataclasses.replace(one, model_dir=str(tmp_path / "other"), **changes)
        assert population.why_not_together([one, other]) == reason
    both = [image_runs.config(tmp_path / n, vit, prompt=None, fine_tune=1) for n in "ab"]
    assert "trains more than a prompt or a prefix" in str(population.why_not_together(both))


def test_the_demos_prefix_is_drawn_without_a_vocabulary():
    files, bindings = demo_images.METHODS["prefix"]
    gin_utils.parse([*files, "runs/demo_images.gin"], [*bindings, "MODEL_DIR = 'unused'"])
    drawn = images.prepare(kinds.build()).initial()["prefix"]
    assert drawn["encoder_rows"].shape == (4, 5, 64)
    assert np.std(drawn["encoder_rows"]) == pytest.approx(1, abs=0.1)
