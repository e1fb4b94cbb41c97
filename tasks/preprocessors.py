r"""Rows as text, in `tf.data`: T5's format and that of DPT's released code.

T5's (Raffel et al. 2020, appendix D; its library's `glue`, `record` and `wsc_simple`) is the
task's name, then every field as `name: text`, with the class's name as the target:

    boolq    boolq passage: … question: …                                     False | True
    cb       cb hypothesis: … premise: …                                      entailment | …
    copa     copa choice1: … choice2: … premise: … question: …                choice1 | choice2
    multirc  multirc question: … answer: … paragraph: …                       False | True
    record   record query: … entities: …, … passage: …                        an answer
    rte      rte hypothesis: … premise: …                                     entailment | …
    wic      wic sentence1: … sentence2: … word: …                            False | True
    wsc      wsc: … *pronoun* …                                               the noun

Fields stand in alphabetical order, except where T5's library gives one (MultiRC, WiC). The paper's
appendix shows COPA's target as `True`; the library that it belongs to writes `choice2`.

The released DPT code starts every input with its own name of the task and writes the label as a
digit; ReCoRD and WSC keep words as targets:

    boolq    superglue-boolq question: … passage: …                           0 | 1
    cb       superglue-cb premise: … hypothesis: …                            0 | 1 | 2
    copa     superglue-copa premise: … choice1: … choice2: …                  0 | 1
    multirc  superglue-multirc question: … answer: … paragraph: …             0 | 1
    record   superglue-record record query: … entities: …, … passage: …       an answer
    rte      rte sentence1: <premise> sentence2: <hypothesis>                 0 | 1
    wic      superglue-wic sentence1: … sentence2: … word: …                  0 | 1
    wsc      superglue-wsc.fixed … * pronoun * …                              the noun

(The name in front is what the code's first commit writes; its last one comments that line out
and keeps the name in ReCoRD alone. Its RTE is GLUE's, which has the same rows.)

Every example keeps `idx` (the benchmark's ids, an int32 vector), `label` (int32, -1 where it is
secret; not in ReCoRD), and `candidates`, the answers that are admissible for it: the targets of all
classes, ReCoRD's entities, and the nouns that WSC itself proposes (`wsc.candidates`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from dpt_jax.tasks import wsc
from dpt_jax.tasks.benchmark import BENCHMARKS, Benchmark
from dpt_jax.tasks.sources import UNKNOWN

Row = dict[str, Any]
Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]

CANONICAL, DIGITS = "canonical", "digits"
FORMATS = (CANONICAL, DIGITS)

_BATCH = 64

# Prefix, and the name and field of what follows it.
_CANONICAL_FIELDS = {
    "boolq": ("boolq", ("passage", "question")),
    "cb": ("cb", ("hypothesis", "premise")),
    "copa": ("copa", ("choice1", "choice2", "premise", "question")),
    "multirc": ("multirc", ("question", "answer", "paragraph")),
    "rte": ("rte", ("hypothesis", "premise")),
    "wic": ("wic", ("sentence1", "sentence2", "word")),
}
_DIGITS_FIELDS = {
    "boolq": ("superglue-boolq", ("question", "passage")),
    "cb": ("superglue-cb", ("premise", "hypothesis")),
    "copa": ("superglue-copa", ("premise", "choice1", "choice2")),
    "multirc": ("superglue-multirc", ("question", "answer", "paragraph")),
    "rte": ("rte", ("premise", "hypothesis")),
    "wic": ("superglue-wic", ("sentence1", "sentence2", "word")),
}
_RENAMED = {("rte", DIGITS): {"premise": "sentence1", "hypothesis": "sentence2"}}


def words(benchmark: Benchmark, text_format: str) -> tuple[str, ...]:
    """The target of every class; empty for the tasks whose targets are parts of the text."""
    if benchmark.name in ("record", "wsc"):
        return ()
    if text_format == DIGITS:
        return tuple(map(str, range(len(benchmark.classes))))
    return benchmark.classes


def preprocessor(name: str, text_format: str) -> Preprocessor:
    """The function from a data set of rows to one of examples with `inputs` and `targets`.

    Args:
      name: short name of one of the eight tasks.
      text_format: `canonical` or `digits`.
    """
    if name == "record":
        return functools.partial(record, prefix="superglue-record " * (text_format == DIGITS))
    if name == "wsc":
        if text_format == DIGITS:
            return functools.partial(mark_pronoun, prefix="superglue-wsc.fixed ", mark="* {} *")
        return functools.partial(mark_pronoun, prefix="wsc: ", mark="*{}*")
    prefix, fields = (_DIGITS_FIELDS if text_format == DIGITS else _CANONICAL_FIELDS)[name]
    renamed = _RENAMED.get((name, text_format), {})
    return functools.partial(
        fields_and_class,
        prefix=prefix,
        fields={field: renamed.get(field, field) for field in fields},
        targets=words(BENCHMARKS[name], text_format),
        markup=name == "multirc",
    )


def fields_and_class(
    dataset: tf.data.Dataset,
    *,
    prefix: str,
    fields: dict[str, str],
    targets: tuple[str, ...],
    markup: bool = False,
) -> tf.data.Dataset:
    """The prefix and every field as `name: text`, one space between; the class's word as target.

    Args:
      dataset: rows.
      prefix: what inputs start with.
      fields: the fields in their order, and the names they are written with.
      targets: the word of every class.
      markup: whether HTML's `<br>` becomes a space and `<b>` and `</b>` nothing, as in MultiRC.
    """

    def examples(rows: Row) -> Row:
        parts = [prefix]
        for field, name in fields.items():
            parts += [f"{name}:", rows[field]]
        text = tf.strings.join(parts, " ")
        if markup:
            text = tf.strings.regex_replace(text, "<br>", " ")
            text = tf.strings.regex_replace(text, "</?b>", "")
        label = tf.cast(rows["label"], tf.int32)
        return {
            "idx": rows["idx"],
            "inputs": text,
            "targets": tf.gather([UNKNOWN, *targets], label + 1),
            "label": label,
            "candidates": tf.repeat([targets], tf.size(label), axis=0),
        }

    return _in_batches(dataset, examples)


def _in_batches(dataset: tf.data.Dataset, examples: Callable[[Row], Row]) -> tf.data.Dataset:
    """Maps many rows at once, which spares most of the cost of calling TensorFlow's small ops."""
    batches = dataset.ragged_batch(_BATCH).map(examples, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.unbatch()


def record(dataset: tf.data.Dataset, *, prefix: str = "") -> tf.data.Dataset:
    """ReCoRD's query, entities and passage; one example for each of the row's `targets`.

    The passage's `@highlight` lines become sentences. All `answers` are kept for scoring.
    """

    def example(row: Row) -> Row:
        passage = tf.strings.regex_replace(row["passage"], "([.?!\"'])\n@highlight\n", r"\1 ")
        passage = tf.strings.regex_replace(passage, "\n@highlight\n", ". ")
        entities = tf.strings.reduce_join(row["entities"], separator=", ")
        parts = [prefix + "record query:", row["query"], "entities:", entities, "passage:", passage]
        return {
            "idx": row["idx"],
            "inputs": tf.strings.join(parts, " "),
            "targets": row["targets"],
            "answers": row["answers"],
            "candidates": row["entities"],
        }

    def one_a_target(row: Row) -> tf.data.Dataset:
        targets = tf.data.Dataset.from_tensor_slices(row["targets"])
        return targets.map(lambda target: row | {"targets": target})

    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.flat_map(one_a_target)


def mark_pronoun(dataset: tf.data.Dataset, *, prefix: str, mark: str) -> tf.data.Dataset:
    """WSC's text with its pronoun marked; the noun as target, whatever the label.

    Args:
      dataset: rows.
      prefix: what inputs start with.
      mark: how the pronoun is written, `{}` standing for it.
    """
    before, after = mark.split("{}")

    def example(row: Row) -> Row:
        text, pronoun, index = row["text"], row["span2_text"], row["span2_index"]
        too_low = tf.strings.regex_full_match(text, wsc.ONE_TOO_LOW + "(?s:.*)")
        index += tf.cast(too_low & (index == wsc.ONE_TOO_LOW_INDEX), tf.int32)
        parts = tf.strings.split(text, " ")
        word = tf.concat([parts, [""]], 0)[tf.clip_by_value(index, 0, tf.size(parts))]
        # Punctuation in the pronoun's word goes behind the mark, as T5 has it in `*him* ,"`.
        length = tf.minimum(tf.strings.length(pronoun), tf.strings.length(word))
        rest = tf.strings.substr(word, length, tf.strings.length(word) - length)
        stands = tf.strings.substr(word, 0, length) == pronoun
        stands &= tf.strings.regex_full_match(rest, "[[:punct:]]*")
        found = tf.debugging.Assert(
            stands, ["The pronoun", pronoun, "does not stand at word", index, "of", text]
        )
        with tf.control_dependencies([found]):
            marked = tf.strings.join([before, pronoun, after])
        behind = tf.boolean_mask([rest], [rest != ""])
        parts = tf.concat([parts[:index], [marked], behind, parts[index + 1 :]], 0)
        joined = tf.strings.reduce_join(parts, separator=" ")
        # T5 writes this one text without the space at its end.
        joined = tf.cond(rest != "", lambda: tf.strings.strip(joined), lambda: joined)
        return {
            "idx": row["idx"],
            "inputs": tf.strings.join([prefix, joined]),
            "targets": row["span1_text"],
            "label": tf.cast(row["label"], tf.int32),
            "candidates": row["candidates"],
        }

    return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def tokenize(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """SeqIO's `tokenize`, many rows at once: token ids, and the texts as `<name>_pretokenized`."""
    vocabularies = [feature.vocabulary for feature in output_features.values()]
    if not all(isinstance(v, seqio.SentencePieceVocabulary) for v in vocabularies):
        # SeqIO's other vocabularies take one text at a time.
        return seqio.preprocessors.tokenize(dataset, output_features)

    def examples(rows: Row) -> Row:
        tokens = {k: f.vocabulary.encode_tf(rows[k]) for k, f in output_features.items()}
        return rows | {f"{name}_pretokenized": rows[name] for name in tokens} | tokens

    return _in_batches(dataset, examples)


def pipeline(name: str, text_format: str) -> list[Any]:
    """The preprocessors of a SeqIO task: text, tokens, (SeqIO's cache,) EOS.

    Like T5's, what is too long is cut before EOS is put at its end.
    """
    return [
        preprocessor(name, text_format),
        tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
    ]
