"""SuperGLUE as it is distributed: eight tasks, their files, fields, classes and sizes.

Wang et al., *SuperGLUE: A Stickier Benchmark for General-Purpose Language Understanding Systems*,
NeurIPS 2019. Field and class names are those of TFDS `super_glue` 1.0.2.
"""

import dataclasses
import re

SPLITS = ("train", "validation", "test")

# What a field holds: a text, an integer, or a list of texts.
TEXT, INTEGER, TEXTS = "text", "integer", "texts"

FALSE_TRUE = ("False", "True")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One of the eight.

    Attributes:
      name: short name, as in `dpt_<name>`.
      folder: its folder in the official download.
      tfds: its configuration of TFDS `super_glue`.
      fields: the fields of a row beside `idx` and `label`, and what they hold.
      ids: the numbers that make up a row's `idx`, from the outermost.
      classes: the class of each label, in order; empty where rows have no label.
      sizes: rows of each split, answer options in MultiRC and queries in ReCoRD.
      train_examples: (input, target) pairs that T5 trains on, where they are not the rows: WSC's
        true ones, and one per answer in ReCoRD.
    """

    name: str
    folder: str
    tfds: str
    fields: dict[str, str]
    sizes: dict[str, int]
    ids: tuple[str, ...] = ("idx",)
    classes: tuple[str, ...] = FALSE_TRUE
    train_examples: int | None = None

    @property
    def tfds_name(self) -> str:
        """Name for `tfds.load`."""
        return f"super_glue/{self.tfds}:1.0.2"


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return dict(zip(SPLITS, (train, validation, test), strict=True))


_ALL = (
    Benchmark(
        "boolq",
        "BoolQ",
        "boolq",
        {"question": TEXT, "passage": TEXT},
        _sizes(9_427, 3_270, 3_245),
    ),
    Benchmark(
        "cb",
        "CB",
        "cb",
        {"premise": TEXT, "hypothesis": TEXT},
        _sizes(250, 56, 250),
        classes=("entailment", "contradiction", "neutral"),
    ),
    Benchmark(
        "copa",
        "COPA",
        "copa",
        {"premise": TEXT, "choice1": TEXT, "choice2": TEXT, "question": TEXT},
        _sizes(400, 100, 500),
        classes=("choice1", "choice2"),
    ),
    Benchmark(
        "multirc",
        "MultiRC",
        "multirc",
        {"paragraph": TEXT, "question": TEXT, "answer": TEXT},
        _sizes(27_243, 4_848, 9_693),
        ids=("paragraph", "question", "answer"),
    ),
    Benchmark(
        "record",
        "ReCoRD",
        "record",
        {"passage": TEXT, "query": TEXT, "entities": TEXTS, "answers": TEXTS},
        _sizes(100_730, 10_000, 10_000),
        ids=("passage", "query"),
        classes=(),
        train_examples=138_854,
    ),
    Benchmark(
        "rte",
        "RTE",
        "rte",
        {"premise": TEXT, "hypothesis": TEXT},
        _sizes(2_490, 277, 3_000),
        classes=("entailment", "not_entailment"),
    ),
    Benchmark(
        "wic",
        "WiC",
        "wic",
        {
            "word": TEXT,
            "sentence1": TEXT,
            "sentence2": TEXT,
            "start1": INTEGER,
            "start2": INTEGER,
            "end1": INTEGER,
            "end2": INTEGER,
        },
        _sizes(5_428, 638, 1_400),
    ),
    Benchmark(
        "wsc",
        "WSC",
        "wsc.fixed",
        {
            "text": TEXT,
            "span1_index": INTEGER,
            "span2_index": INTEGER,
            "span1_text": TEXT,
            "span2_text": TEXT,
        },
        _sizes(554, 104, 146),
        train_examples=259,
    ),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def benchmark_of(task: str) -> Benchmark | None:
    """Which of the eight a task is, whatever its text format or draw; None for no task.

    Args:
      task: such as `dpt_rte`, `dpt_rte_digits`, `dpt_rte_k8_s0` or `dpt_rte_p10_s0`; `rte` will do.
    """
    name = re.sub(r"(_digits)?(_[kp]\d+_s\d+)?$", "", task.removeprefix("dpt_"))
    return BENCHMARKS.get(name)
