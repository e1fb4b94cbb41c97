"""TFDS and raw jsonl give the same examples; SeqIO's machinery works on them."""

import json
import socket
from unittest import mock

import numpy as np
import pytest

from tests.tasks import raw_rows

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import dpt_jax.tasks as tasks  # noqa: E402
from dpt_jax.tasks import jsonl as jsonl_files  # noqa: E402
from dpt_jax.tasks import wsc  # noqa: E402
from dpt_jax.tasks.benchmark import BENCHMARKS, SPLITS  # noqa: E402


def examples(task: str, split: str, **options) -> list[dict]:
    dataset = seqio.get_mixture_or_task(task).get_dataset(
        None, split=split, shuffle=False, **options
    )
    return list(dataset.as_numpy_iterator())


def texts(task: str, split: str) -> list[tuple[str, str]]:
    return [
        (x["inputs_pretokenized"].decode(), x["targets_pretokenized"].decode())
        for x in examples(task, split)
    ]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert np.asarray(value).dtype == np.asarray(other[key]).dtype, key
            np.testing.assert_array_equal(value, other[key], key)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_tfds_and_jsonl_agree_on_examples_and_their_order(name, tfds_dir, raw, monkeypatch):
    task = f"dpt_{name}"
    for split in SPLITS:
        monkeypatch.delenv("DPT_SUPERGLUE_DIR", raising=False)
        from_tfds = examples(task, split)
        sizes = seqio.TaskRegistry.get(task).num_input_examples(split)
        monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(raw))
        assert_same(examples(task, split), from_tfds)
        assert seqio.TaskRegistry.get(task).num_input_examples(split) == sizes


def flat_rows(benchmark, split, data_dir):
    """A split as Hugging Face's `datasets` exports it: TFDS has the same flat rows and numbers."""
    import tensorflow_datasets as tfds

    dataset = tfds.load(benchmark.tfds_name, split=split, data_dir=str(data_dir))
    for row in dataset.as_numpy_iterator():
        yield json.loads(
            json.dumps(row, default=lambda x: x.decode() if hasattr(x, "decode") else x.tolist())
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_flat_rows_with_numbers_for_labels_give_the_same_examples(
    name, tfds_dir, raw, tmp_path, monkeypatch
):
    benchmark = BENCHMARKS[name]
    for split, file in jsonl_files.FILES.items():
        rows = list(flat_rows(benchmark, split, tfds_dir))
        if benchmark.classes:
            assert {row["label"] for row in rows} <= ({-1} if split == "test" else {0, 1, 2})
        raw_rows.write_file(tmp_path / benchmark.folder / file, rows)
        monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(raw))
        expected = examples(f"dpt_{name}", split)
        sizes = seqio.TaskRegistry.get(f"dpt_{name}").num_input_examples(split)
        monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path))
        assert_same(examples(f"dpt_{name}", split), expected)
        assert seqio.TaskRegistry.get(f"dpt_{name}").num_input_examples(split) == sizes


def test_rows_are_in_the_order_of_tfds_itself(tfds_dir, jsonl):
    import tensorflow_datasets as tfds

    for name, key in (("rte", "hypothesis"), ("multirc", "answer")):
        benchmark = BENCHMARKS[name]
        dataset = tfds.load(benchmark.tfds_name, split="train", data_dir=str(tfds_dir))
        theirs = [row[key].decode() for row in dataset.as_numpy_iterator()]
        ours = jsonl_files.read(benchmark, str(jsonl), "train")
        assert [row[key] for row in ours] == theirs


@pytest.mark.slow
def test_both_text_formats_give_the_same_rows(jsonl):
    for name in BENCHMARKS:
        plain, digits = (
            examples(f"dpt_{name}{suffix}", "validation") for suffix in ("", "_digits")
        )
        assert [x["idx"].tolist() for x in plain] == [x["idx"].tolist() for x in digits]
        assert [x.get("label") for x in plain] == [x.get("label") for x in digits]


@pytest.mark.slow
def test_wsc_trains_on_true_rows_and_evaluates_on_all(jsonl):
    assert [int(x["label"]) for x in examples("dpt_wsc", "train")] == [1, 1, 1]
    assert sorted(int(x["label"]) for x in examples("dpt_wsc", "validation")) == [0, 0, 1, 1]
    assert {int(x["label"]) for x in examples("dpt_wsc", "test")} == {-1}


def test_wscs_candidates_are_the_nouns_of_the_same_pronoun(jsonl):
    found = {int(x["idx"][0]): x["candidates"].tolist() for x in examples("dpt_wsc", "validation")}
    # Rows 2 and 3 are one text, spaced differently.
    assert found[0] == found[1] == [b"Mitchell", b"Tom"]
    assert found[2] == found[3] == [b"They", b"the dog"]


def test_a_lone_wsc_row_gets_the_nouns_of_others_that_stand_in_its_text():
    rows = [
        ("Bill passed the plate to John because he was full.", 7, "John"),
        ("Bill passed the plate to John because he was hungry.", 7, "Bill"),
        ("The plate fell on the board-Bill and it broke.", 7, "The plate"),
        ("Johnny ate.", 0, "Johnny"),
    ]
    found = wsc.candidates(rows)
    assert found[0] == found[1] == ["Bill", "John", "The plate"]
    assert found[2:] == [["The plate"], ["Johnny"]]


@pytest.mark.slow
def test_record_trains_on_every_answer_and_evaluates_each_query_once(jsonl):
    answers = [
        (tuple(x["idx"]), x["targets_pretokenized"]) for x in examples("dpt_record", "train")
    ]
    expected = {((i, 5 * i), b"Bo") for i in range(3)}
    expected |= {((i, 5 * i + 1), answer) for i in range(3) for answer in (b"Ann Lee", b"Bo")}
    assert len(answers) == len(expected) == 9
    assert set(answers) == expected
    validation = examples("dpt_record", "validation")
    assert len(validation) == 6
    assert {tuple(x["answers"]) for x in validation} == {(b"Bo",), (b"Ann Lee", b"Bo")}
    for example in validation:
        assert example["candidates"].tolist() == [b"Ann", b"Ann Lee", b"Bo", b"Rome"]


@pytest.mark.slow
def test_an_answer_is_always_one_of_the_candidates(jsonl):
    for task in tasks.TASKS:
        for example in examples(task, "train"):
            assert example["targets_pretokenized"] in example["candidates"].tolist()


def test_token_ids_are_those_of_the_texts_with_eos(jsonl):
    features = seqio.get_mixture_or_task("dpt_wsc").output_features
    for example in examples("dpt_wsc", "validation"):
        for name, feature in features.items():
            text = example[f"{name}_pretokenized"].decode()
            assert example[name].tolist() == [*feature.vocabulary.encode(text), 1]
            assert example[name].dtype == np.int32


@pytest.mark.slow
def test_what_is_too_long_keeps_its_eos(jsonl):
    task = seqio.get_mixture_or_task("dpt_boolq")
    cut = task.get_dataset({"inputs": 7, "targets": 4}, split="train", shuffle=False)
    whole = examples("dpt_boolq", "train")
    for example, full in zip(cut.as_numpy_iterator(), whole, strict=True):
        assert example["inputs"].tolist() == [*full["inputs"][:6], 1]


@pytest.mark.slow
def test_shards_are_disjoint_and_complete(jsonl):
    parts = [examples("dpt_rte", "train", shard_info=seqio.ShardInfo(i, 3)) for i in range(3)]
    ids = [int(x["idx"][0]) for part in parts for x in part]
    assert sorted(ids) == list(range(30))
    assert [len(part) for part in parts] == [10, 10, 10]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dpt_multirc", "dpt_record", "dpt_wsc_digits", "dpt_rte_k8_s0"])
def test_seqios_cache_gives_the_same_examples(task, jsonl, tmp_path, monkeypatch):
    """Files as SeqIO's caching job writes them, which needs Apache Beam to run."""
    registered = seqio.TaskRegistry.get(task)
    folder = tmp_path / task
    folder.mkdir()
    for split in SPLITS:
        rows = registered.source.get_dataset(split=split, shuffle=False)
        rows = list(registered.preprocess_precache(rows).as_numpy_iterator())
        # A row with an empty list does not show its type.
        typed = max(rows, key=lambda row: sum(np.size(v) > 0 for v in row.values()))
        shapes = {
            k: (np.shape(v), tf.constant(v).dtype.name) for k, v in typed.items() if np.size(v)
        }
        info = {
            "num_shards": 1,
            "seqio_version": seqio.__version__,
            "features": {
                k: {"shape": [None, *shape[1:]] if shape else [], "dtype": dtype}
                for k, (shape, dtype) in shapes.items()
            },
        }
        prefix = seqio.utils.get_cached_tfrecord_prefix(str(folder), split)
        with tf.io.TFRecordWriter(f"{prefix}-00000-of-00001") as writer:
            for row in rows:
                writer.write(seqio.utils.dict_to_tfexample(row).SerializeToString())
        (folder / f"info.{split}.json").write_text(json.dumps(info))
        (folder / f"stats.{split}.json").write_text(json.dumps({"examples": len(rows)}))
    (folder / "COMPLETED").touch()
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    monkeypatch.setattr(registered, "_cache_dir", None)
    for split in SPLITS if task != "dpt_record" else ("train", "validation"):
        assert_same(examples(task, split, use_cached=True), examples(task, split))


@pytest.mark.slow
def test_mixtures_are_in_proportion_to_the_examples_up_to_the_cap(jsonl):
    mixture = seqio.get_mixture_or_task("dpt_superglue")
    assert {task.name for task in mixture.tasks} == {f"dpt_{name}" for name in BENCHMARKS}
    for task in mixture.tasks:
        assert mixture.get_rate(task) == len(examples(task.name, "train"))
    digits = seqio.get_mixture_or_task("dpt_superglue_digits")
    assert {task.name for task in digits.tasks} == {f"dpt_{name}_digits" for name in BENCHMARKS}
    from dpt_jax.tasks.registry import examples_proportional

    rte = seqio.TaskRegistry.get("dpt_rte")
    assert examples_proportional(rte, maximum=10) == 10
    equal = seqio.get_mixture_or_task("dpt_superglue_equal")
    assert {equal.get_rate(task) for task in equal.tasks} == {1.0}
    drawn = equal.get_dataset({"inputs": 512, "targets": 64}, split="train", seed=0, num_epochs=1)
    assert sum(1 for _ in drawn) > 8


@pytest.fixture
def spelled_mixture():
    """The eight tasks with a vocabulary of bytes, which spells every text."""
    vocabulary = seqio.ByteVocabulary()
    features = {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
    names = [f"spelled_{name}" for name in BENCHMARKS]
    for name, benchmark in zip(names, BENCHMARKS, strict=True):
        task = seqio.TaskRegistry.get(f"dpt_{benchmark}")
        seqio.TaskRegistry.add_provider(name, task.replace(name=name, output_features=features))
    yield seqio.MixtureRegistry.add("spelled_superglue", names, default_rate=1.0).name
    seqio.MixtureRegistry.remove("spelled_superglue")
    for name in names:
        seqio.TaskRegistry.remove(name)


@pytest.mark.slow
def test_seqios_evaluator_scores_every_task_of_the_mixture(jsonl, spelled_mixture):
    evaluator = seqio.Evaluator(
        spelled_mixture,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length={"inputs": 512, "targets": 64},
    )

    def true_answers(dataset, model_feature_shapes=None):
        return [(i, row["decoder_target_tokens"]) for i, row in dataset.as_numpy_iterator()]

    found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=true_answers, step=0)
    scores = {task: dict(metrics) for task, metrics in found.result().items()}
    assert set(scores) == {f"spelled_{name}" for name in BENCHMARKS}
    # WSC's target is the noun that is asked about, so its answer is always yes: half of the four.
    assert scores.pop("spelled_wsc") == {"accuracy": 50.0, "invalid": 0}
    for task, metrics in scores.items():
        assert metrics.pop("invalid") == 0, task
        assert set(metrics.values()) == {100.0}, task


@pytest.mark.slow
@pytest.mark.parametrize("pack", [False, True])
def test_seqio_makes_training_batches_of_the_mixture(pack, jsonl):
    dataset = seqio.get_dataset(
        "dpt_superglue",
        {"inputs": 128, "targets": 16},
        dataset_split="train",
        shuffle=True,
        seed=0,
        feature_converter=seqio.EncDecFeatureConverter(pack=pack),
    )
    batch = next(dataset.batch(4).as_numpy_iterator())
    assert batch["encoder_input_tokens"].shape == (4, 128)
    assert batch["decoder_target_tokens"].shape == (4, 16)


def test_official_data_is_mixed_at_t5s_published_rates(monkeypatch):
    # Of T5's library: `SUPER_GLUE_WEIGHT_MAPPING`.
    published = {
        "boolq": 9_427,
        "cb": 250,
        "copa": 400,
        "multirc": 27_243,
        "record": 138_854,
        "rte": 2_490,
        "wic": 5_428,
        "wsc": 259,
    }
    from dpt_jax.tasks import sources

    monkeypatch.setattr(sources, "_prepared_sizes", lambda benchmark: None)
    mixture = seqio.get_mixture_or_task("dpt_superglue")
    rates = {task.name.removeprefix("dpt_"): mixture.get_rate(task) for task in mixture.tasks}
    assert rates == published


def test_counting_rows_never_asks_the_network(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "socket", mock.Mock(side_effect=AssertionError("network")))
    seqio.set_tfds_data_dir_override(str(tmp_path))
    try:
        assert seqio.TaskRegistry.get("dpt_wsc").num_input_examples("train") == 554
    finally:
        seqio.set_tfds_data_dir_override(None)


def test_tfds_without_the_data_says_what_to_set(monkeypatch, caplog):
    import tensorflow_datasets as tfds

    from dpt_jax.tasks import sources

    monkeypatch.setattr(tfds, "load", mock.Mock(side_effect=OSError("no route to host")))
    monkeypatch.setenv("SUPERGLUE_DIR", "/data")
    sources._say_that_it_is_fetched.cache_clear()
    with pytest.raises(
        tasks.TaskError, match="super_glue/rte.*no route to host.*DPT_SUPERGLUE_DIR"
    ):
        examples("dpt_rte", "train")
    # It may try for minutes, so that this is said before.
    [said] = caplog.messages
    assert "set DPT_SUPERGLUE_DIR" in said and "has SUPERGLUE_DIR" in said


def test_the_source_is_chosen_when_data_is_asked_for(tmp_path, jsonl, monkeypatch):
    assert len(examples("dpt_rte", "validation")) == 4
    other = tmp_path / "other"
    raw_rows.write_file(other / "RTE" / "val.jsonl", raw_rows.lines("rte", "validation")[:3])
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(other))
    assert len(examples("dpt_rte", "validation")) == 3
