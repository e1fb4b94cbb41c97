"""The Python API trains, answers and saves as the commands do; what it refuses."""

import functools
import io
import json
import logging
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpt_jax
from dpt_jax import interop, run_files
from dpt_jax.cli.main import main
from dpt_jax.data.folder_vocabulary import open_vocabulary
from dpt_jax.demo import BACKBONE_DIR, VOCABULARY
from dpt_jax.errors import InputError, NonFiniteLossError, Stopped, arguments_for
from dpt_jax.interop.prompts import load_factors
from dpt_jax.models import Transformer, decoding
from dpt_jax.models.residual_norm import residual_norm
from dpt_jax.prompts import VanillaPrompt
from tests.support import processes, runs, toy_tasks

METHOD = functools.partial(
    dpt_jax.DecomposedPrompt, length=runs.PROMPT_LENGTH, bottleneck=runs.BOTTLENECK
)
TEXTS = ["abcx", "gfedc", "a", "bbbbxbbbbb", "ce"]


def rows(split):
    return [(row["inputs"], row["targets"]) for row in toy_tasks.examples(split)]


def encoded(text, length):
    """The ids of a text and its end as one padded row."""
    ids = [*(byte + 3 for byte in text.encode()), 1]
    return np.pad(np.asarray([ids], np.int32), ((0, 0), (0, length - len(ids))))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return runs.save_backbone(tmp_path_factory.mktemp("t5"))


def opened(backbone, method=None, **options):
    return dpt_jax.PromptedT5.from_pretrained(backbone, method, tokenizer="bytes", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(backbone, folder):
    """A finished fit, its history and what its callbacks were told."""
    t5, lines = opened(backbone, METHOD(), max_source_length=64), []
    history = t5.fit(
        rows("train"),
        steps=12,
        eval_pairs=rows("validation"),
        metric=toy_tasks.accuracy,
        model_dir=folder / "fit",
        callbacks=[lambda *line: lines.append(line)],
    )
    return t5, history, lines


@pytest.mark.slow
def test_fit_gives_the_bits_of_dpt_train(backbone, folder, trained):
    # Bucket lengths are chosen for at most 8 there as here.
    argv = runs.arguments(folder / "train", backbone, NUM_BUCKETS=8)
    assert main(argv) == 0
    ours, theirs = folder / "fit", folder / "train"
    best = run_files.best_step(theirs)
    for step in {best, 12}:
        names = (run_files.PROMPT, run_files.FACTORS)
        for a, b in (
            (run_files.numpy_checkpoint(run, step) / n for run in (ours, theirs)) for n in names
        ):
            if a.suffix == ".npy":
                assert a.read_bytes() == b.read_bytes()
            else:
                assert {k: v.tobytes() for k, v in np.load(a).items()} == {
                    k: v.tobytes() for k, v in np.load(b).items()
                }
    for mine, its in zip(runs.metrics(ours), runs.metrics(theirs), strict=True):
        assert mine | {"task": None} == its | {"task": None}
    np.testing.assert_array_equal(trained[0].prompt, runs.prompt(theirs, best))


@pytest.mark.slow
def test_the_commands_read_what_fit_leaves(folder, trained, capsys, monkeypatch):
    t5, history, _ = trained
    lines = io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()))
    monkeypatch.setattr("sys.stdin", lines)
    assert main(["predict", f"--model_dir={folder / 'fit'}"]) == 0
    # As many tokens as the longest target has.
    assert capsys.readouterr().out.splitlines() == t5.generate(TEXTS, max_new_tokens=4)
    task = {"NAME": "toy_x", "MODULE": "tests.support.toy_tasks"}
    flags = [f"--gin.MIXTURE_OR_TASK_{name}={value!r}" for name, value in task.items()]
    assert main(["evaluate", f"--model_dir={folder / 'fit'}", *flags]) == 0
    assert f'"accuracy": {history.best_value}' in capsys.readouterr().out


@pytest.mark.slow
def test_history_and_callbacks_tell_what_the_log_does(folder, trained, tmp_path):
    _, history, lines = trained
    log = runs.metrics(folder / "fit")
    losses = {line["step"]: line["loss"] for line in log if line["split"] == "train"}
    assert history.losses == losses
    evaluated = {line["step"]: {"accuracy": line["accuracy"]} for line in log if line["task"]}
    assert history.metrics == evaluated and list(evaluated) == [6, 12]
    assert history.best_value == max(found["accuracy"] for found in evaluated.values())
    assert [(step, split) for step, split, _ in lines] == [(x["step"], x["split"]) for x in log]
    history.plot().savefig(tmp_path / "history.png")
    # What a notebook asks for.
    assert history.plot()._repr_png_().startswith(b"\x89PNG")
    drawn = [axis.lines[0].get_xydata().tolist() for axis in history.plot().axes]
    assert drawn[0] == [[step, loss] for step, loss in losses.items()]
    assert [point[0] for point in drawn[1]] == [6, 12]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_its_folder_and_another_is_refused(
    backbone, trained, tmp_path
):
    t5 = opened(backbone, METHOD(), max_source_length=64)
    evaluated = {"eval_pairs": rows("validation"), "metric": toy_tasks.accuracy}

    def interrupt(step, split, metrics):
        if split == "validation":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match="SIGINT after saving step 7"):
        t5.fit(rows("train"), steps=12, model_dir=tmp_path, callbacks=[interrupt], **evaluated)
    # The best so far is in use.
    np.testing.assert_array_equal(t5.prompt, runs.prompt(tmp_path, 6))
    history = t5.fit(rows("train"), steps=12, model_dir=tmp_path, **evaluated)
    np.testing.assert_array_equal(t5.prompt, trained[0].prompt)
    assert history.losses == trained[1].losses
    with pytest.raises(InputError, match=r"differs.*\n.*task.pairs"):
        t5.fit(rows("train")[1:], steps=12, model_dir=tmp_path, **evaluated)
    with pytest.raises(InputError, match=r"task.trained_by.learning_rate.*0.3.*0.1"):
        t5.fit(rows("train"), steps=12, model_dir=tmp_path, learning_rate=0.1, **evaluated)
    # A file of the run itself takes no harm.
    assert run_files.read_summary(tmp_path)["last_step"] == 12


@pytest.mark.slow
def test_what_is_saved_is_read_again(backbone, trained, tmp_path):
    t5 = trained[0]
    expected = t5.generate(TEXTS)
    t5.save_prompt(tmp_path / "npy")
    t5.save_prompt(tmp_path / "one.safetensors")
    t5.save_prompt(tmp_path / "peft", format="peft")
    for name in ("npy", "one.safetensors", "peft"):
        again = opened(backbone, prompt=tmp_path / name)
        np.testing.assert_array_equal(again.prompt, t5.prompt)
        assert again.generate(TEXTS) == expected
    factors = load_factors(tmp_path / "npy")
    np.testing.assert_allclose(factors["A"] @ factors["B"], t5.prompt, atol=1e-5)
    assert "trained by dpt-jax" in (tmp_path / "npy" / "README.md").read_text()
    # It goes on from the very factors, and from an array as from a prompt without any.
    again = opened(backbone, tmp_path / "npy")
    assert isinstance(again.method, dpt_jax.DecomposedPrompt)
    np.testing.assert_array_equal(again.method.a_init(None, factors["A"].shape), factors["A"])
    assert isinstance(opened(backbone, t5.prompt).method, VanillaPrompt)


@pytest.mark.slow
def test_answers_are_those_of_greedy_decoding_in_one_batch_of_several_prompts(backbone, trained):
    t5 = trained[0]
    zeros = np.zeros((2, runs.WIDTH), np.float32)
    given = {"own": t5.prompt, "zeros": zeros, "ones": zeros + 1}
    names = ["own", "zeros", "ones", "own", "zeros"]
    together = t5.generate(TEXTS, prompts=given, names=(name for name in names))
    params = interop.load_backbone(backbone, runs.T5)[1]

    @jax.jit
    def decoded(prompt, tokens):
        model = Transformer(runs.T5, VanillaPrompt(*prompt.shape))
        prompted = params | {"prompt": {"prompt": prompt}}
        return decoding.greedy_decode(model, prompted, tokens, max_decode_length=8)

    for text, name, found in zip(TEXTS, names, together, strict=True):
        output = np.asarray(decoded(given[name], encoded(text, 12)))[0]
        assert found == toy_tasks.VOCABULARY.decode(output.tolist())
    right = [
        t == p
        for (_, t), p in zip(
            rows("validation"), t5.generate([x for x, _ in rows("validation")]), strict=True
        )
    ]
    assert t5.evaluate(rows("validation")) == {"exact_match": pytest.approx(np.mean(right))}


@pytest.mark.slow
def test_scores_are_sums_of_the_log_probabilities_of_candidates(backbone):
    t5 = opened(backbone, np.full((3, runs.WIDTH), 0.5, np.float32))
    found = t5.score(TEXTS[:2], [["yes", "no"], ["maybe"]])
    assert [row.shape for row in found] == [(2,), (1,)]
    params = interop.load_backbone(backbone, runs.T5)[1] | {"prompt": {"prompt": t5.prompt}}
    model = Transformer(runs.T5, VanillaPrompt(3, runs.WIDTH))

    @jax.jit
    def logprobs(inputs, target):
        shifted = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
        logits = model.apply({"params": params}, inputs, shifted, target)
        return jax.nn.log_softmax(logits)[0]

    def expected(text, answer):
        target = encoded(answer, 8)
        found = np.asarray(logprobs(encoded(text, 12), target))
        return found[np.arange(len(answer) + 1), target[0, : len(answer) + 1]].sum()

    forms = [np.array([["yes", "no"]] * 2), (iter(["yes", "no"]) for _ in range(2))]
    for form in forms:
        same = t5.score(TEXTS[:2], ["yes", "no"])
        np.testing.assert_array_equal(t5.score(TEXTS[:2], form), same)
    for text, answers, row in zip(TEXTS, [["yes", "no"], ["maybe"]], found, strict=False):
        np.testing.assert_allclose(row, [expected(text, x) for x in answers], rtol=1e-4)


@pytest.mark.slow
def test_the_fast_recipe_measures_the_pairs_and_keeps_the_norm(backbone, tmp_path):
    t5 = opened(backbone, METHOD(), max_source_length=64)
    t5.fit(rows("train"), recipe="fast", steps=2, model_dir=tmp_path)
    texts = [text for text, _ in rows("train")[:16]]
    tokens = np.concatenate([encoded(text, 64) for text in texts])
    norm = residual_norm(runs.T5, runs.random_parameters(), tokens)
    assert json.loads((tmp_path / "start.json").read_text()) == {"residual_norm": norm}
    factors = load_factors(tmp_path)
    size = np.sqrt(norm / np.sqrt(runs.BOTTLENECK * runs.WIDTH))
    for factor in factors.values():
        # Few numbers were drawn, and two steps keep their norm.
        assert np.sqrt(np.mean(np.square(factor))) == pytest.approx(size, rel=0.5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_arguments_of_fit(backbone):
    t5, advice = opened(backbone, METHOD()), "Lower learning_rate=, or clip .*clip_by_global_norm"
    with pytest.raises(NonFiniteLossError, match=advice):
        t5.fit(rows("train")[:4], steps=3, batch_size=4, learning_rate=1e30)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype("bfloat16")])
def test_bfloat16_in_any_form_stores_the_frozen_weights_so(backbone, dtype):
    t5 = opened(backbone, METHOD(), dtype=dtype)
    assert t5.config.dtype == jnp.bfloat16
    assert t5._prepared.config.frozen_dtype == "bfloat16"
    assert opened(backbone, dtype=jnp.float32)._prepared.config.frozen_dtype is None


def test_before_fit_the_first_values_answer_and_say_so_once(backbone, caplog):
    t5 = opened(backbone, METHOD())
    with caplog.at_level(logging.WARNING):
        assert len(t5.generate(["abc"])) == 1
        t5.generate(["abc"])
    assert [r.message for r in caplog.records].count(
        "Nothing is trained yet: the DecomposedPrompt is as it starts."
    ) == 1
    assert t5.prompt.shape == (runs.PROMPT_LENGTH, runs.WIDTH)


@pytest.mark.slow
def test_a_prefix_is_trained_saved_and_read_again(backbone, tmp_path):
    t5 = opened(backbone, dpt_jax.DecomposedPrefix(3, ("encoder", "cross"), bottleneck=2))
    t5.fit(rows("train")[:8], steps=2, batch_size=4, optimizer=optax.sgd(0.1))
    t5.save_prompt(tmp_path / "prefix")
    again = opened(backbone, prompt=tmp_path / "prefix")
    texts = [text for text, _ in rows("validation")]
    assert again.generate(texts) == t5.generate(texts)
    np.testing.assert_array_equal(
        np.concatenate(again.score(texts, ["yes", "no"])),
        np.concatenate(t5.score(texts, ["yes", "no"])),
    )
    # It goes on from there: a step of no length leaves every number, another one does not.
    assert isinstance(again.method, dpt_jax.FreePrefix)
    few = {"pairs": rows("train")[:8], "steps": 1, "batch_size": 4}
    started = np.load(tmp_path / "prefix" / "prefix.npz")
    for rate, moves in ((0.0, False), (0.1, True)):
        again.fit(**few, optimizer=optax.sgd(rate))
        again.save_prompt(tmp_path / "more")
        ended = np.load(tmp_path / "more" / "prefix.npz")
        names = [name for name in started if name.startswith(("encoder", "cross"))]
        assert len(names) == 4
        assert all(np.array_equal(started[x], ended[x]) is not moves for x in names)


ON_A_MESH = """
import sys
import dpt_jax
method = dpt_jax.VanillaPrompt(length=2)
t5 = dpt_jax.PromptedT5.from_pretrained(sys.argv[1], method, tokenizer="bytes", mesh=(1, 1, 2))
placed = t5._prepared.placed
t5.fit([("abc", "yes"), ("d", "no")], steps=1, batch_size=2)
assert t5._prepared.placed is placed
kernel = placed["encoder"]["layers_0"]["attention"]["query"]["kernel"]
print(kernel.shape, kernel.sharding.shard_shape(kernel.shape), len(t5.generate(["abc"])))
"""


@pytest.mark.slow
def test_frozen_weights_are_placed_once_and_split_over_a_mesh(backbone):
    done = processes.run("-c", ON_A_MESH, backbone, devices=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(16, 32) (16, 16) 1"


class Frame:
    """As much of a pandas frame as is asked for."""

    iloc = None

    def __init__(self, **columns):
        self._columns, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return self._columns[name]


def test_rows_come_in_many_forms():
    from dpt_jax.data.pairs import read_pairs

    expected = [("a", "b"), ("c", "d")]
    for given in (
        expected,
        iter([["a", "b"], ["c", "d"]]),
        [{"question": "a", "answer": "b", "id": 1}, {"question": "c", "answer": "d", "id": 2}],
        Frame(id=[1, 2], answer=["b", "d"], question=["a", "c"]),
    ):
        assert read_pairs(given, ("question", "answer")) == expected


REFUSED = [
    ({"steps": 0}, "steps is 0; it must be a positive integer"),
    ({"epochs": 1.5}, "epochs is 1.5"),
    ({"pairs": [("a", "b"), "cd"]}, r"Row 1 of pairs is no \(input, target\), but 'cd' \(str\)"),
    ({"pairs": [("a", "b"), ("c", 1)]}, r"The target of row 1 of pairs is no text, but 1 \(int\)"),
    ({"pairs": [{"inputs": "a"}]}, "Row 0 of pairs has no 'targets'; it has inputs"),
    ({"pairs": Frame(a=["x"])}, "frame without the column 'inputs'; it has a"),
    ({"pairs": []}, "pairs is empty"),
    ({"pairs": "ab"}, "pairs is a str"),
    ({"eval_pairs": []}, "eval_pairs is empty"),
    ({"pairs": [("a" * 99, "b"), ("a", "b")]}, r"1 of 2 rows of pairs .*100.*max_source_length"),
    ({"max_target_length": 2}, r"2 of 2 rows of pairs .*max_target_length"),
    ({"metric": "exact_mach"}, "no metric 'exact_mach'.*Nearest: exact_match"),
    ({"metric": 3}, "metric is 3"),
    ({"metric": "token_f1"}, r"^metric would not be used without evaluation. Set eval_pairs=\.$"),
    ({"eval_period": 2, "early_stopping_patience": 1}, "^eval_period and early_stopping_patience"),
    ({"recipe": "papers"}, "no recipe 'papers'; there are fast, paper, released"),
    ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "made already"),
    ({"learning_rate": "high"}, "learning_rate is 'high'"),
    ({"learning_rate": float("nan")}, "learning_rate is nan; it must be a finite number"),
    ({"learning_rate": True}, "learning_rate is True"),
    ({"dtype": "float16"}, "dtype is 'float16'"),
    ({"columns": "ab"}, "columns is 'ab'"),
    ({"pairs": [("a", "b"), ("\ud83d", "b")]}, "Row 1 of pairs has half of a surrogate .* input"),
    # Settings are called what `fit` calls them, not what gin does.
    ({"seed": -1}, r"^seed is -1; .*Set seed=\.$"),
    ({"eval_period": "epoc", "eval_pairs": [("a", "b")]}, "^eval_period is 'epoc'.*eval_period="),
    (
        {"early_stopping_patience": 3, "eval_period": 0, "eval_pairs": [("a", "b")]},
        "^early_stopping_patience is 3, but eval_period is 0.*Set eval_period=",
    ),
    ({"learning_rate": -1.0}, "^learning_rate is -1.0.*Set learning_rate="),
    ({"optimizer": "adam"}, "^optimizer is 'adam'; .* such as optax.adamw.*Set optimizer="),
    ({"microbatches": 3, "batch_size": 4}, "^microbatches is 3; .* divisor of batch_size = 4"),
    ({"model_dir": __file__}, "is a file; set model_dir= to a folder"),
    ({"mesh": (3, 1, 1)}, r"^mesh = \(3, 1, 1\).*set mesh="),
    ({"mesh": 2}, "^mesh is 2; it must be three sizes"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_trained_on_is_refused(backbone, changes, message):
    t5 = opened(backbone, METHOD(), max_source_length=64)
    arguments = {"pairs": [("a", "yes"), ("b", "no")], "steps": 1} | changes
    with pytest.raises(InputError, match=message):
        t5.fit(arguments.pop("pairs"), **arguments)


def test_what_cannot_be_answered_is_refused(backbone):
    t5 = opened(backbone, METHOD(), max_source_length=8)
    zeros = np.zeros((2, runs.WIDTH), np.float32)
    for call, message in [
        (lambda: t5.generate("abc"), "texts is 'abc'"),
        (lambda: t5.generate(["a", None]), "Row 1 of texts"),
        (
            lambda: t5.generate(["a", "b" * 8]),
            r"1 of 2 texts .*max_source_length.*'inputs': 9\} tokens",
        ),
        # Texts are not settings, whatever they say.
        (lambda: t5.generate(["ok", b"EPOCHS"]), "Row 1 of texts is no text, but b'EPOCHS'"),
        (lambda: t5.generate(["a"], num_beams=0), "num_beams is 0"),
        (lambda: t5.generate(["a"], prompts={"x": zeros}, names=["y"]), "Row 0 names .*'y'"),
        (lambda: t5.generate(["a"], prompts={"x": zeros[:, 1:]}), r"prompts\['x'\].*\(2, 15\)"),
        (lambda: t5.generate(["a"], prompts={"x": zeros, "y": zeros}), "there are none"),
        (lambda: t5.score(["a"], [[]]), "Row 0 of candidates is empty"),
        (lambda: t5.score(["a"], "yes"), "candidates is 'yes'; it takes a list of texts"),
        (lambda: t5.score(["a", "b"], [["yes"]]), "one list of candidates"),
        (lambda: t5.score(["a"], ["\ud800"]), "Row 0 of candidates has half of a surrogate pair"),
        (lambda: t5.score(["a"], [["b", "\ud800"]]), r"Row 1 of candidates\[0\] has half of a"),
        (lambda: t5.score(["a", "b"], ["yes", ["no"]]), r"candidates\[0\] is 'yes' \(str\)"),
        (lambda: t5.score(["a", "b"], [1, 2]), r"candidates\[0\] is 1 \(int\)"),
        (lambda: t5.score(["a"], None), "candidates is None; it takes a list of texts"),
        (lambda: t5.generate(["a"], prompts=["a"]), r"prompts is \['a'\]; it takes prompts by"),
        (lambda: t5.generate(["a"], prompts="a"), "prompts is 'a'; it takes prompts by name"),
        (lambda: t5.generate(["a"], prompts={"x": None}, names="x"), "names is 'x'; it takes a"),
        (lambda: t5.generate(["a"], prompts={"x": None}, names=3), "names is 3; it takes a list"),
        (lambda: t5.generate(["a"], prompts={"x": None}, names=[["x"]]), r"Row 0 .* \['x'\]"),
        (lambda: t5.generate(["a", "\ud800"]), "Row 1 of texts has half of a surrogate pair"),
        (lambda: t5.evaluate([("a", "b")], max_new_tokens=0), "max_new_tokens is 0"),
        (lambda: t5.save_prompt("x", format="pt"), "format is 'pt'"),
        (lambda: t5.save_prompt(f"{__file__}/x"), r"^path = .*test_prompted_t5.py/x cannot be"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert t5.generate([]) == []


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("MESH is 3. Set --gin.MESH.", "mesh is 3. Set mesh=."),
        ("--gin.MESH = /a b/MESH cannot be written", "mesh=/a b/MESH cannot be written"),
        ("lower (--gin.MESH) or EPOCHS, not MESH_X", "lower (mesh=) or epochs, not MESH_X"),
        ("Set --gin.MESH=\"(1, 'x')\" or --gin.EPOCHS=3.", "Set mesh=(1, 'x') or epochs=3."),
        ("~/MESH, MESH/a, /MESH, MESH.npy, x-MESH and MESH.", None),
        ("Row 'it\\'s MESH', b'MESH' or \"a MESH's\" of a T5's MESH", None),
    ],
)
def test_settings_are_named_as_arguments_and_texts_and_paths_stay(message, shown):
    if shown is None:
        # The last word alone is a setting.
        shown = "mesh".join(message.rsplit("MESH", 1))
    with pytest.raises(InputError) as error, arguments_for({"MESH": "mesh", "EPOCHS": "epochs"}):
        raise InputError(message)
    assert str(error.value) == shown


@pytest.mark.slow
def test_numpys_integers_are_integers_and_no_prompt_is_the_bare_t5(backbone):
    t5, pairs = opened(backbone, METHOD(), max_source_length=16), [("ab", "c"), ("b", "d")]
    numbers = {"steps": 2, "batch_size": 2, "seed": 3}
    t5.fit(pairs, **numbers)
    prompt = t5.prompt
    of_numpy = {name: np.int64(number) for name, number in numbers.items()}
    t5.fit(pairs, **of_numpy, mesh=np.array([-1, 1, 1]))
    np.testing.assert_array_equal(t5.prompt, prompt)
    found = t5.generate(["ab", "b"], np.int32(4), prompts={"bare": None})
    assert found == opened(backbone).generate(["ab", "b"], 4)


def test_folders_that_are_no_t5_are_refused(backbone, tmp_path):
    with pytest.raises(InputError, match="nothing to train: .* neither a method nor a prompt"):
        opened(backbone).fit([("a", "b")])
    with pytest.raises(InputError, match="holds no pretrained T5.*from_pretrained"):
        dpt_jax.PromptedT5.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="spiece.model, tokenizer.json.*tokenizer="):
        dpt_jax.PromptedT5.from_pretrained(backbone)
    (tmp_path / "wide.npy").write_bytes(b"")
    np.save(tmp_path / "wide.npy", np.zeros((2, 17), np.float32))
    with pytest.raises(InputError, match=r"\(2, 17\).*16"):
        opened(backbone, prompt=tmp_path / "wide.npy")
    with pytest.raises(InputError, match="DecomposedPrompt is a class"):
        opened(backbone, dpt_jax.DecomposedPrompt)
    with pytest.raises(InputError, match="The folder of from_pretrained is None"):
        opened(None)
    with pytest.raises(InputError, match="17 wide .embed_dim.*Leave the prompt's width out"):
        opened(backbone, VanillaPrompt(2, 17))
    with pytest.raises(InputError, match=r"the shape \(length, embed_dim\)"):
        opened(backbone, np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"There is no folder MESH/t5\."):
        opened("MESH/t5")
    encoders = opened(backbone, dpt_jax.FreePrefix(3))
    with pytest.raises(InputError, match=r"with stacks=\('decoder',\) and position_bias='front', "):
        encoders.save_prompt(tmp_path / "peft", format="peft")
    with pytest.raises(ValueError, match="PREFIX_STACKS names 'enc'.*Give stacks=, or in gin"):
        dpt_jax.FreePrefix(3, ("enc",))
    with pytest.raises(InputError, match="Both a method, DecomposedPrompt, and a prompt"):
        opened(backbone, METHOD(), prompt=tmp_path / "wide.npy")


def test_the_tokenizer_is_compared_with_the_models(backbone, tmp_path, caplog):
    shutil.copytree(backbone, tmp_path / "t5")
    shutil.copy(VOCABULARY, tmp_path / "t5" / "spiece.model")
    with pytest.raises(InputError, match="it is a Bytes, .*spiece.model. Set tokenizer= to"):
        opened(tmp_path / "t5")
    shutil.copytree(BACKBONE_DIR, tmp_path / "added")
    (tmp_path / "added" / "added_tokens.json").write_text('{"<sep>": 250}')
    dpt_jax.PromptedT5.from_pretrained(tmp_path / "added")
    assert "does not: '<sep>' (250)" in caplog.text and "set tokenizer= to" in caplog.text


# From a folder of transformers' to generated text.
STRANGER = """
import dpt_jax
pairs = [("is the cup red ?", "yes"), ("is the dog big ?", "no")]
t5 = dpt_jax.PromptedT5.from_pretrained({folder!r}, dpt_jax.DecomposedPrompt(4, bottleneck=2))
t5.fit(pairs, steps=1, batch_size=2, model_dir={run!r})
answers = t5.generate(["is the cup red ?", "is the dog big ?"], max_new_tokens=2)
"""


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("kept", ["spiece.model", "tokenizer.json"])
def test_a_folder_of_transformers_answers_as_transformers_does(tmp_path, kept, capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
    transformers = pytest.importorskip("transformers", reason="extra `interop`")
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(str(VOCABULARY))
    pieces = [
        (processor.IdToPiece(i), processor.GetScore(i)) for i in range(processor.GetPieceSize())
    ]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=256, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4,
        decoder_start_token_id=0, tie_word_embeddings=False, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(10 * torch.randn(256, 16))
    model.save_pretrained(tmp_path)
    if kept == "spiece.model":
        shutil.copy(VOCABULARY, tmp_path / kept)
    else:
        tokenizer.save_pretrained(tmp_path)
        assert (tmp_path / kept).exists() and not (tmp_path / "spiece.model").exists()
    texts = ["is the red cup big ?", "a dog is in the box", "xyz"]
    ours = dpt_jax.PromptedT5.from_pretrained(tmp_path)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    vocabulary = open_vocabulary(tmp_path, config.vocab_size)
    for text, ids in zip(texts, batch.input_ids.tolist(), strict=True):
        assert [*vocabulary.encode(text), 1] == [i for i in ids if i]
    expected = model.generate(**batch, max_new_tokens=8, do_sample=False)
    decoded = [processor.Decode([i for i in row if i > 1]) for row in expected[:, 1:].tolist()]
    if kept == "tokenizer.json":
        decoded = [tokenizer.decode([i for i in row if i > 1]) for row in expected[:, 1:].tolist()]
    assert ours.generate(texts) == decoded
    run = str(tmp_path / "run")
    exec(STRANGER.format(folder=str(tmp_path), run=run), names := {})
    assert len(STRANGER.strip().splitlines()) <= 8 and len(names["answers"]) == 2
    lines = "\n".join(question for question, _ in names["pairs"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["predict", f"--model_dir={run}"]) == 0
    assert capsys.readouterr().out.splitlines() == names["answers"]
    beams = model.generate(**batch, max_new_tokens=4, num_beams=3, do_sample=False)
    searched = [tokenizer.decode([i for i in row if i > 1]) for row in beams[:, 1:].tolist()]
    assert ours.generate(texts, max_new_tokens=4, num_beams=3) == searched != decoded
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(InputError, match="model_type 'bert'"):
        dpt_jax.PromptedT5.from_pretrained(tmp_path)


README = pathlib.Path(__file__).parents[1] / "README.md"
# A process in which the block's imports are the first ones.
ALONE = """
import sys
BANNED = ("tensorflow", "tensorflow_datasets", "seqio", "gin", "clu")
sys.modules.update(dict.fromkeys(BANNED))
before = set(sys.modules)
import dpt_jax
assert not {"jax", "numpy"} & sys.modules.keys()
assert len(sys.modules.keys() - before) < 20, sys.modules.keys() - before  # It starts at once.
assert set(dpt_jax.__all__) <= set(dir(dpt_jax))
exec(sys.argv[1])
assert all(sys.modules[name] is None for name in BANNED)
"""


@pytest.mark.slow
def test_the_readmes_block_runs_as_printed_without_seqio_tensorflow_and_gin(tmp_path):
    (block,) = re.findall(r"```python\n(import dpt_jax.*?)```", README.read_text(), re.DOTALL)
    assert len(block.strip().splitlines()) - 1 <= 8  # One of them is empty.
    done = subprocess.run(
        [sys.executable, "-c", ALONE, block],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['yes', 'no']"
    assert np.load(tmp_path / "red" / "prompt.npy").shape == (20, 128)


def test_every_public_name_is_there_and_explained():
    for name in dpt_jax.__all__:
        assert getattr(dpt_jax, name).__doc__, name
    for name, method in vars(dpt_jax.PromptedT5).items():
        if callable(method) and not name.startswith("_"):
            assert "Example::" in method.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'PromptedT6'"):
        _ = dpt_jax.PromptedT6


def test_a_prompt_without_a_width_takes_the_models():
    assert opened_width(METHOD()) == runs.WIDTH
    with pytest.raises(ValueError, match="EMBED_DIM of this DecomposedPrompt is None"):
        METHOD().parameter_count()
    with pytest.raises(ValueError, match="BOTTLENECK is 0"):
        dpt_jax.DecomposedPrompt(length=3)


def opened_width(prompt):
    return runs.run_config("run", "backbone", prompt=prompt).prompt.embed_dim
