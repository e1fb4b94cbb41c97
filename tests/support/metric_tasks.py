"""SeqIO tasks with the metrics that SeqIO and T5X take, and with some that they do not."""

import numpy as np
import seqio
import tensorflow as tf

from tests.support import odd_tasks, toy_tasks

RNG = np.random.default_rng(0)
SHOWN = {
    "text": seqio.metrics.Text("# a *text*"),
    "histogram": seqio.metrics.Histogram(RNG.normal(size=(5, 4)), bins=7),
    "image": seqio.metrics.Image(RNG.uniform(size=(4, 5, 6, 3)).astype(np.float32), 2),
    "audio": seqio.metrics.Audio(RNG.uniform(-1, 1, (2, 30, 1)).astype(np.float32), 8000),
    "generic": seqio.metrics.Generic(
        np.arange(6.0).reshape(2, 3),
        tf.compat.v1.SummaryMetadata(summary_description="numbers of its own"),
    ),
}
# What the metrics of `metrics_all` were given the last time.
GIVEN = {}


def many(targets, predictions):
    """Values of every kind, the first of them no number; two that no logger takes."""
    return (
        {"text": SHOWN["text"]}
        | {f"exact{k}": v for k, v in toy_tasks.accuracy(targets, predictions).items()}
        | SHOWN
        | {"wrapped": seqio.metrics.Scalar(np.float32(0.25))}
        | {"matrix": np.eye(2), "said": "a text"}
    )


def of_scores(targets, scores):
    """A metric over the targets' log-probabilities."""
    GIVEN["scores"] = targets, scores
    return {"mean_score": float(np.mean(scores))}


def of_aux_values(targets, predictions, aux_values):
    """A metric over the answers' log-probabilities."""
    GIVEN["aux_values"] = targets, predictions, aux_values
    scores = np.asarray(aux_values["scores"])
    right = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"confidence": float(np.mean(scores)), "right": float(np.dot(scores, right))}


def longest(targets, predictions):
    """A metric for an object of SeqIO's."""
    return {"longest": max(map(len, predictions)), "targets": len(targets)}


def renamed_aux_values(targets, predictions, aux_values):
    """The same metric as an object's."""
    found = of_aux_values(targets, predictions, aux_values)
    return {f"object_{name}": value for name, value in found.items()}


def only_text(targets, predictions):
    """No number at all."""
    del targets, predictions
    return {"text": SHOWN["text"]}


def odd(targets, guesses):
    """What SeqIO refuses."""


def shout(text, **unused):
    """The postprocessor: SeqIO gives all metrics of a task the targets that the first one made."""
    return text.upper()


object_of = seqio.metrics.PassthroughLegacyMetric.from_metric_fn


class Intermediates(seqio.metrics.CollectingMetric):
    """Over what T5X's evaluation does not give."""

    model_output_type = seqio.metrics.ModelOutputType.SCORE_WITH_INTERMEDIATES


class Nothing(seqio.metrics.CollectingMetric):
    """Says nothing of what it is over."""


def add(name, metric_fns=(), metric_objs=()):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            toy_tasks.dataset_fn, splits=["train", "validation"], num_input_examples=toy_tasks.SIZES
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=shout,
        output_features=odd_tasks.SMALL,
        metric_fns=list(metric_fns),
        metric_objs=list(metric_objs),
    )


add(
    "metrics_all",
    [many, of_scores, of_aux_values],
    [object_of(longest, shout), object_of(renamed_aux_values, shout).empty()],
)
add("metrics_of_objects", metric_objs=[object_of(toy_tasks.accuracy)])
add("metrics_of_texts", [only_text])
add("metrics_twice", [toy_tasks.accuracy, toy_tasks.accuracy])
add("metrics_odd", [odd])
add("metrics_of_intermediates", metric_objs=[Intermediates])
add("metrics_of_nothing", metric_objs=[Nothing])
