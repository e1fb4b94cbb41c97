"""Rows become the text that T5 was trained on, and that of the released DPT code.

The first tests are the examples in T5's paper (Raffel et al. 2020, appendix D), in its library's
documentation and in its library's own tests.
"""

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from dpt_jax.tasks import preprocessors  # noqa: E402
from dpt_jax.tasks.benchmark import BENCHMARKS  # noqa: E402


def texts(name: str, text_format: str = "canonical", **row) -> list[tuple[str, str]]:
    """`(inputs, targets)` of a row with TFDS's fields."""
    row.setdefault("idx", [0] * len(BENCHMARKS[name].ids))
    row = {k: tf.constant(v, tf.string if v == [] else None) for k, v in row.items()}
    made = preprocessors.preprocessor(name, text_format)(tf.data.Dataset.from_tensors(row))
    return [
        (example["inputs"].decode(), example["targets"].decode())
        for example in made.as_numpy_iterator()
    ]


def wsc(text_format: str = "canonical", **row) -> list[tuple[str, str]]:
    row = {"span1_index": 0, "label": 1, "candidates": ["Tom"]} | row
    return texts("wsc", text_format, **row)


def test_wsc_as_in_t5s_documentation():
    found = wsc(
        text="Mitchell asked Tom if he could lend some money.",
        span1_text="Tom",
        span2_text="he",
        span2_index=4,
    )
    assert found == [("wsc: Mitchell asked Tom if *he* could lend some money.", "Tom")]


def test_multirc_as_in_t5s_library_without_markup():
    found = texts(
        "multirc",
        paragraph="<b>Sent 1: </b>Once upon a time, there was a squirrel named Joey.<br>"
        "<b>Sent 2: </b>Joey loved to go outside and play with his cousin Jimmy.",
        question="Why was Joey surprised the morning he woke up for breakfast?",
        answer="There was only pie to eat",
        label=1,
    )
    inputs = (
        "multirc question: Why was Joey surprised the morning he woke up for breakfast? answer: "
        "There was only pie to eat paragraph: Sent 1: Once upon a time, there was a squirrel named "
        "Joey. Sent 2: Joey loved to go outside and play with his cousin Jimmy."
    )
    assert found == [(inputs, "True")]


def record_row(**changes):
    return {
        "query": "It was @placeholder.",
        "entities": ["A", "B", "C"],
        "passage": "This is the passage\n@highlight\nAnother sentence."
        "\n@highlight\nThird sentence.",
        "answers": ["A", "C"],
        "targets": ["A", "C"],
    } | changes


RECORD_INPUTS = (
    "record query: It was @placeholder. entities: A, B, C passage: This is the passage. Another "
    "sentence. Third sentence."
)


def test_record_as_in_t5s_library_with_one_example_an_answer():
    assert texts("record", **record_row()) == [(RECORD_INPUTS, "A"), (RECORD_INPUTS, "C")]


@pytest.mark.parametrize("end", ["?", "!", '"', "'", "."])
def test_a_records_highlight_needs_no_full_stop_after_punctuation(end):
    ((inputs, _),) = texts(
        "record", **record_row(passage=f"Said{end}\n@highlight\nb", targets=["A"])
    )
    assert inputs.endswith(f"passage: Said{end} b")


def test_copa_as_in_t5s_paper_with_its_librarys_target():
    found = texts(
        "copa",
        premise="Political violence broke out in the nation.",
        choice1="Many citizens relocated to the capitol.",
        choice2="Many citizens took refuge in other territories.",
        question="effect",
        label=1,
    )
    inputs = (
        "copa choice1: Many citizens relocated to the capitol. choice2: Many citizens took refuge "
        "in other territories. premise: Political violence broke out in the nation. question: "
        "effect"
    )
    assert found == [(inputs, "choice2")]


def test_cb_as_in_t5s_paper():
    premise = (
        "Valence the void-brain, Valence the virtuous valet. Why couldn't the figger choose his "
        "own portion of titanic anatomy to shaft? Did he think he was helping?"
    )
    found = texts("cb", premise=premise, hypothesis="Valence was helping", label=1)
    assert found == [(f"cb hypothesis: Valence was helping premise: {premise}", "contradiction")]


# Fields of a row, and the text in both formats.
ROWS = {
    "boolq": ({"question": "is it", "passage": "It -- is.", "label": 0}),
    "cb": ({"premise": "P?", "hypothesis": "H.", "label": 2}),
    "copa": (
        {"premise": "P.", "choice1": "C1.", "choice2": "C2.", "question": "cause", "label": 0}
    ),
    "multirc": ({"paragraph": "P<br>Q.", "question": "Q?", "answer": "<b>A</b>", "label": 0}),
    "rte": ({"premise": "P.", "hypothesis": "H.", "label": 1}),
    "wic": ({"word": "W", "sentence1": "S1 W.", "sentence2": "W S2.", "label": 1}),
}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("boolq", ("boolq passage: It -- is. question: is it", "False")),
        ("cb", ("cb hypothesis: H. premise: P?", "neutral")),
        ("rte", ("rte hypothesis: H. premise: P.", "not_entailment")),
        ("wic", ("wic sentence1: S1 W. sentence2: W S2. word: W", "True")),
    ],
)
def test_other_fields_stand_in_t5s_order(name, expected):
    assert texts(name, **ROWS[name]) == [expected]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("boolq", ("superglue-boolq question: is it passage: It -- is.", "0")),
        ("cb", ("superglue-cb premise: P? hypothesis: H.", "2")),
        ("copa", ("superglue-copa premise: P. choice1: C1. choice2: C2.", "0")),
        ("multirc", ("superglue-multirc question: Q? answer: A paragraph: P Q.", "0")),
        ("rte", ("rte sentence1: P. sentence2: H.", "1")),
        ("wic", ("superglue-wic sentence1: S1 W. sentence2: W S2. word: W", "1")),
    ],
)
def test_the_released_format_has_its_names_order_and_digits(name, expected):
    assert texts(name, "digits", **ROWS[name]) == [expected]


def test_the_released_format_keeps_words_as_targets_in_record_and_wsc():
    row = {"span1_text": "Tom", "span2_text": "he", "span2_index": 3}
    inputs = "superglue-wsc.fixed I asked if * he * could."
    assert wsc("digits", text="I asked if he could.", **row) == [(inputs, "Tom")]
    found = texts("record", "digits", **record_row(targets=["C"]))
    assert found == [(f"superglue-record {RECORD_INPUTS}", "C")]


@pytest.mark.parametrize("name", ROWS)
def test_a_secret_label_becomes_unk(name):
    for text_format in preprocessors.FORMATS:
        ((_, target),) = texts(name, text_format, **ROWS[name] | {"label": -1})
        assert target == "<unk>"


@pytest.mark.parametrize(
    "text, pronoun, index, expected",
    [
        ('"Good for him," he said. ', "him", 2, 'wsc: "Good for *him* ," he said.'),
        ("It rained .", "It", 0, "wsc: *It* rained ."),
        ("We saw it", "it", 2, "wsc: We saw *it*"),
        ("An X is X , it is .", "it", 5, "wsc: An X is X , *it* is ."),
        ("Two  spaces , it is . ", "it", 4, "wsc: Two  spaces , *it* is . "),
        ("Café \\1 — it is.", "it", 3, "wsc: Café \\1 — *it* is."),
    ],
)
def test_the_pronoun_is_marked_wherever_it_stands(text, pronoun, index, expected):
    row = {"text": text, "span1_text": "x", "span2_text": pronoun, "span2_index": index}
    assert wsc(**row) == [(expected, "x")]


@pytest.mark.parametrize("index", [-1, 0, 2, 3, 99])
def test_a_pronoun_that_is_elsewhere_stops_the_pipeline(index):
    row = {"text": "We saw. it was", "span1_text": "We", "span2_text": "saw", "span2_index": index}
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not stand at word"):
        wsc(**row)
