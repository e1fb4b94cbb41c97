"""Metrics as SeqIO takes them: functions and objects over every output, values of every kind."""

import functools

import jax
import numpy as np
import pytest
import seqio
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from dpt_jax.data.batches import pad
from dpt_jax.errors import InputError
from dpt_jax.evaluation.metrics import Answers, TaskMetrics
from dpt_jax.evaluation.summaries import told_apart
from dpt_jax.models import decoding
from dpt_jax.problems import text
from tests.support import metric_tasks, runs

MODULE = {"mixture_or_task_module": "tests.support.metric_tasks"}
TASK = "metrics_all"


def events(folder):
    """Metadata and tensors of every tag, as TensorBoard reads them."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: (found.SummaryMetadata(tag), [e.tensor_proto for e in found.Tensors(tag)])
        for tag in found.Tags()["tensors"]
    }


def answers_of(rows):
    """Made-up outputs: tokens of some words, and what they would be given for scores."""
    rng = np.random.default_rng(1)
    vocabulary = metric_tasks.odd_tasks.SMALL["targets"].vocabulary
    texts = [str(rng.choice(["yes", "no", "maybe"])) for _ in rows]
    tokens = np.zeros((len(rows), 6), np.int32)
    for row, said in zip(tokens, texts, strict=True):
        ids = [*vocabulary.encode(said), 1]
        row[: len(ids)] = ids
    logprobs, scores = rng.normal(size=(2, len(rows))).astype(np.float32)
    return Answers(texts, list(tokens), logprobs, scores)


@pytest.mark.slow
def test_metrics_are_those_of_seqios_own_evaluator():
    evaluator = seqio.Evaluator(
        TASK,
        seqio.EncDecFeatureConverter(pack=False),
        sequence_length={"inputs": 64, "targets": 6},
    )
    task = seqio.TaskRegistry.get(TASK)
    rows = list(evaluator.cached_task_datasets[TASK].as_numpy_iterator())
    answers = answers_of(rows)
    # As T5X gives them: in any order, each with its place.
    order = np.random.default_rng(2).permutation(len(rows))

    def predict(*_):
        return [(i, answers.tokens[i]) for i in order]

    def score(*_):
        return [(i, answers.target_scores[i]) for i in order]

    def predict_with_aux(*_):
        return predict(), {"scores": [answers.logprobs[i] for i in order]}

    future, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=predict,
        score_fn=score,
        predict_with_aux_fn=predict_with_aux,
    )
    expected = future.result()[TASK]

    targets = [row["targets_pretokenized"].decode().upper() for row in rows]
    found = TaskMetrics(task)(rows, targets, [t.upper() for t in answers.texts], answers)
    assert found.keys() == expected.keys()
    numbers, shown, left_out = told_apart(found)
    assert shown.keys() == metric_tasks.SHOWN.keys()
    assert left_out.keys() == {"matrix", "said"}
    assert {"exactaccuracy", "wrapped", "mean_score", "confidence", "object_right"} < set(numbers)
    for name, value in numbers.items():
        np.testing.assert_allclose(value, getattr(expected[name], "value", expected[name]), 1e-6)


@pytest.mark.slow
def test_a_run_logs_every_kind_and_says_what_it_leaves_out(backbone, tmp_path, caplog):
    config = runs.run_config(
        tmp_path / "run",
        backbone,
        mixture_or_task_name=TASK,
        best_metric="exactaccuracy",
        train_steps=2,
        eval_period=1,
        num_buckets=1,
        **MODULE,
    )
    summary = text.train(config)
    assert 0 <= summary["best_value"] <= 1
    assert [r.message.split(":")[0] for r in caplog.records if "left out" in r.message] == [
        f"The metric {name} of {TASK} is left out" for name in ("matrix", "said")
    ]
    lines = [line for line in runs.metrics(tmp_path / "run") if line["task"] == TASK]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(isinstance(v, float | int) for v in summary["metrics"][TASK].values())

    # SeqIO's logger, which writes through TensorFlow, is given the same values.
    logger = seqio.loggers.TensorBoardLogger(str(tmp_path / "theirs"))
    logger(TASK, 1, metric_tasks.SHOWN, None, None, None)
    ours, theirs = events(tmp_path / "run"), events(tmp_path / "theirs" / TASK)
    for name in metric_tasks.SHOWN:
        metadata, tensors = ours[f"validation/{TASK}/{name}"]
        expected, [tensor] = theirs[f"eval/{name}"]
        assert metadata.plugin_data == expected.plugin_data
        assert metadata.summary_description == expected.summary_description
        for found in tensors:
            assert np.array_equal(*map(tf_array, (found, tensor)))
        assert len(tensors) == 2


def tf_array(proto):
    from tensorboard.util.tensor_util import make_ndarray

    return make_ndarray(proto)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 2])
def test_aux_values_hold_the_scores_that_decoding_gives(backbone, tmp_path, beams):
    config = runs.run_config(
        tmp_path,
        backbone,
        mixture_or_task_name=TASK,
        prompt=None,
        num_buckets=1,
        beam_size=beams,
        **MODULE,
    )
    prepared = text.prepare(config)
    evaluator, params = prepared.evaluator, prepared.placed
    [result] = evaluator(params)
    [task] = evaluator.examples
    inputs = pad(task.inputs[:4], 4, 64)
    if beams > 1:
        search = functools.partial(
            decoding.beam_search, evaluator.model, max_decode_length=6, beam_size=beams
        )
        expected = jax.jit(search)(params, inputs)[1][:, 0]
    else:
        decode = functools.partial(decoding.greedy_decode, evaluator.model, max_decode_length=6)
        tokens = np.asarray(jax.jit(decode)(params, inputs))
        logits = jax.jit(evaluator.model.apply)(
            {"params": params}, inputs, decoding.shift_right(tokens), tokens
        )
        logprobs = np.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        expected = np.sum(logprobs, axis=1, where=tokens > 0)
    found = metric_tasks.GIVEN["aux_values"][2]["scores"]
    np.testing.assert_allclose(found[:4], expected, rtol=1e-4)
    written = [record["aux_scores"] for record in result.predictions]
    np.testing.assert_array_equal(written, found)
    # Of an empty answer to every row.
    empty = [np.zeros(4, np.int32)] * len(task.inputs)
    assert not evaluator._score_answers(task, params, empty).any()


@pytest.mark.slow
def test_a_task_of_objects_has_a_best_step_and_one_of_texts_has_none(backbone, tmp_path):
    values = {}
    for name in ("metrics_of_objects", "metrics_of_texts"):
        config = runs.run_config(
            tmp_path / name,
            backbone,
            mixture_or_task_name=name,
            train_steps=1,
            num_buckets=1,
            **MODULE,
        )
        values[name] = text.train(config)["best_value"]
    assert values["metrics_of_objects"] is not None and values["metrics_of_texts"] is None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("metrics_twice", "two metrics 'accuracy'"),
        ("metrics_odd", "targets', 'guesses"),
        ("metrics_of_intermediates", "a metric over SCORE_WITH_INTERMEDIATES"),
        ("metrics_of_nothing", "no model_output_type"),
    ],
)
def test_what_cannot_be_asked_is_said_before_the_first_step(backbone, tmp_path, task, message):
    config = runs.run_config(tmp_path / "run", backbone, mixture_or_task_name=task, **MODULE)
    with pytest.raises(InputError, match=message) as error:
        text.train(config)
    assert task in str(error.value)
    assert not (tmp_path / "run").exists()
