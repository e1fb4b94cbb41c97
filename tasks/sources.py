"""Where rows come from: TFDS `super_glue` or a folder of raw jsonl, chosen when data is asked for.

Both give the same rows in the same order: TFDS's fields, with `idx` as a vector of the benchmark's
own ids, and beside them, where preprocessing needs them, `targets` (ReCoRD) or `candidates` (WSC).
"""

import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils

from dpt_jax.tasks import few_shot_draw, jsonl, settings, wsc
from dpt_jax.tasks.benchmark import INTEGER, SPLITS, TEXT, TEXTS, Benchmark
from dpt_jax.tasks.errors import TaskError

# T5's target where the answer is not known, as in the test split.
UNKNOWN = "<unk>"


class SuperGlueSource(seqio.DataSource):
    """The rows of one of the eight tasks.

    Training rows are what T5 trains on: WSC's with a true label, ReCoRD's queries with an answer.
    Validation and test are complete.

    Args:
      benchmark: which of the eight.
      shots: keep only this drawn part of the training rows. The source then has a further split,
        `heldout`: training rows that are not in the draw, for choosing settings by.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        shots: few_shot_draw.Shots | few_shot_draw.Share | None = None,
    ):
        super().__init__(splits=SPLITS if shots is None else (*SPLITS, few_shot_draw.HELD_OUT))
        self.benchmark = benchmark
        self.shots = shots

    def __repr__(self) -> str:
        return f"SuperGlueSource({self.benchmark.name}, {self.shots})"

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """No: SeqIO then shards by examples."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One name: a split is read as a whole, and small."""
        return [f"{self.benchmark.name}/{split}"]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The rows of a split, always in the same order; SeqIO's tasks shuffle after this.

        Raises:
          TaskError: for an unknown split, data that is missing or wrong, and more shots than rows.
        """
        del shuffle, seed, sequence_length, use_cached, num_epochs
        held_out = self.shots is not None and split == few_shot_draw.HELD_OUT
        dataset = self._complete("train" if held_out else split)
        if self.shots and (held_out or split == "train"):
            chosen = self._ids(few_shot_draw.held_out if held_out else few_shot_draw.draw)
            dataset = dataset.filter(lambda row: tf.reduce_any(_equal(chosen, row["idx"])))
        if self.benchmark.name == "record":
            several = split == "train" and not self.shots
            dataset = dataset.map(lambda row: row | {"targets": _targets(row["answers"], several)})
        if shard_info and shard_info.num_shards > 1:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        return dataset

    def _complete(self, split: str) -> tf.data.Dataset:
        name = self.benchmark.name
        if split not in SPLITS:
            raise TaskError(
                f"SuperGLUE's {name} has no split {split!r}; it has {', '.join(SPLITS)}."
            )
        folder = settings.superglue_dir()
        if folder:
            rows = jsonl.read(self.benchmark, folder, split)
            if name == "record" and split == "train":
                _warn_of_unanswered(rows)
            dataset = _from_rows(self.benchmark, rows)
        else:
            dataset = _from_tfds(self.benchmark, split)
        if name == "wsc":
            dataset = _with_candidates(dataset)
            if split == "train":
                dataset = dataset.filter(lambda row: row["label"] == 1)
        if name == "record" and split == "train":
            dataset = dataset.filter(lambda row: tf.size(row["answers"]) > 0)
        return dataset

    def few_shot_ids(self) -> list[list[int]]:
        """The ids of the drawn training rows, sorted.

        Raises:
          TaskError: when there are fewer training rows.
        """
        return self._ids(few_shot_draw.draw)

    def _ids(self, choose: Callable[..., list[list[int]]]) -> list[list[int]]:
        """The ids of the training rows that a function of `few_shot_draw` chooses."""
        batches = self._complete("train").map(lambda row: row["idx"]).batch(1024)
        ids = [idx for batch in batches.as_numpy_iterator() for idx in batch.tolist()]
        return choose(self.benchmark.name, ids, self.shots)

    def num_input_examples(self, split: str) -> int | None:
        """Rows of the split before any is left out, or None where that is not known.

        A folder without the split's file, such as FewGLUE without `val.jsonl`, has 0.
        It never loads data from the network: without a prepared TFDS data set, it is the official
        size.
        """
        if self.shots and split in ("train", few_shot_draw.HELD_OUT):
            return self._drawn_count(split)
        folder = settings.superglue_dir()
        if folder:
            try:
                path = jsonl.split_file(self.benchmark, folder, split)
            except TaskError:
                return 0
            try:
                return _count(self.benchmark, path)
            except (TaskError, OSError):
                return None
        sizes = _prepared_sizes(self.benchmark) or self.benchmark.sizes
        return sizes.get(split)

    def _drawn_count(self, split: str) -> int | None:
        """Rows of a split that is a part of the training rows, or None where that is not known."""
        assert self.shots is not None
        if split == "train" and isinstance(self.shots, few_shot_draw.Shots):
            return self.shots.k
        rows = SuperGlueSource(self.benchmark).num_input_examples("train")
        # Of these two's training rows not all are used.
        if rows is None or self.benchmark.name in ("record", "wsc"):
            return None
        if split == few_shot_draw.HELD_OUT:
            return few_shot_draw.held_out_count(rows)
        return self.shots.count(rows)

    def num_train_examples(self) -> int:
        """(input, target) pairs of the training split, which T5 mixes in proportion to.

        For the official data this is T5's own number; other data is counted.
        """
        if self.shots:
            return self._drawn_count("train") or len(self.few_shot_ids())
        official = self.benchmark.sizes["train"]
        if self.num_input_examples("train") == official:
            return self.benchmark.train_examples or official
        dataset = self.get_dataset("train", shuffle=False)
        if self.benchmark.name != "record":
            return sum(1 for _ in dataset)
        return sum(len(targets) for targets in dataset.map(lambda row: row["targets"]))


def _warn_of_unanswered(rows: list[jsonl.Row]) -> None:
    if count := sum(not row["answers"] for row in rows):
        logging.warning("ReCoRD: %d training queries have no answer and are left out.", count)


def _equal(chosen: list[list[int]], idx: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.constant(chosen, tf.int32) == idx, axis=-1)


def _targets(answers: tf.Tensor, several: bool) -> tf.Tensor:
    """What a ReCoRD query is trained on: every answer, or the first; T5's `<unk>` without one."""
    found = answers if several else answers[:1]
    return tf.cond(tf.size(answers) > 0, lambda: found, lambda: tf.constant([UNKNOWN]))


_counts: dict[tuple[str, int, int], int | None] = {}


def _count(benchmark: Benchmark, path: pathlib.Path) -> int | None:
    # Counted once: a listing asks for every few-shot task.
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _counts:
        _counts[key] = jsonl.count(benchmark, path)
    return _counts[key]


_DTYPES: dict[str, Any] = {TEXT: tf.string, INTEGER: tf.int32}


def _from_rows(benchmark: Benchmark, rows: list[jsonl.Row]) -> tf.data.Dataset:
    """Rows in memory as TFDS would give them."""
    columns: dict[str, Any] = {}
    for name, kind in benchmark.fields.items():
        values = [row[name] for row in rows]
        if kind == TEXTS:
            columns[name] = _ragged(values)
        else:
            columns[name] = tf.constant(values, _DTYPES[kind])
    shape = (len(rows), len(benchmark.ids))
    columns["idx"] = tf.constant([row["idx"] for row in rows], tf.int32, shape)
    if benchmark.classes:
        columns["label"] = tf.constant([row["label"] for row in rows], tf.int64)
    return tf.data.Dataset.from_tensor_slices(columns)


def _ragged(values: list[list[str]]) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(
        tf.constant([text for texts in values for text in texts], tf.string),
        tf.constant([len(texts) for texts in values], tf.int64),
    )


def _from_tfds(benchmark: Benchmark, split: str) -> tf.data.Dataset:
    name = benchmark.tfds_name
    # SeqIO's own loader knows where the user has told SeqIO to look.
    data_dir = seqio.TfdsDataSource(name).tfds_dataset.data_dir
    if _prepared_sizes(benchmark) is None:
        _say_that_it_is_fetched(name)
    # One file after the other: the order must not depend on how many files there are.
    config = tfds.ReadConfig(interleave_cycle_length=1, skip_prefetch=True)
    try:
        dataset = tfds.load(
            name,
            split=split,
            data_dir=data_dir,
            shuffle_files=False,
            read_config=config,
            try_gcs=True,
        )
    except Exception as e:
        raise TaskError(
            f"TFDS {name} cannot be read ({type(e).__name__}: {e}). Prepare it, name its folder "
            "with TFDS_DATA_DIR, or set DPT_SUPERGLUE_DIR to a folder of SuperGLUE's jsonl files."
        ) from e

    def vector(row: dict[str, Any]) -> dict[str, Any]:
        idx = row["idx"]
        parts = [idx[part] for part in benchmark.ids] if isinstance(idx, dict) else [idx]
        return row | {"idx": tf.cast(tf.stack(parts), tf.int32)}

    return dataset.map(vector, num_parallel_calls=tf.data.AUTOTUNE)


@functools.cache  # Once for all splits.
def _say_that_it_is_fetched(name: str) -> None:
    logging.warning(
        "TFDS %s is not prepared here, and is fetched. To read SuperGLUE's jsonl files, set "
        "DPT_SUPERGLUE_DIR to their folder.%s",
        name,
        " The environment has SUPERGLUE_DIR." if "SUPERGLUE_DIR" in os.environ else "",
    )


def _prepared_sizes(benchmark: Benchmark) -> dict[str, int] | None:
    """Rows of each split of the prepared TFDS data set; None where none is prepared."""
    name = benchmark.tfds_name.replace(":", "/")
    given = seqio.TfdsDataSource(benchmark.tfds_name).tfds_dataset.data_dir
    for data_dir in file_utils.list_data_dirs(given_data_dir=given):
        folder = f"{data_dir}/{name}"
        # `tfds.builder` would go to the network for a data set that is not there.
        if tf.io.gfile.exists(f"{folder}/dataset_info.json"):
            splits = tfds.builder_from_directory(folder).info.splits
            return {split: info.num_examples for split, info in splits.items()}
    return None


def _with_candidates(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """WSC's rows with `candidates`: they depend on the other rows of the split."""
    rows = [
        (row["text"].decode(), int(row["span2_index"]), row["span1_text"].decode())
        for row in dataset.as_numpy_iterator()
    ]
    nouns = tf.data.Dataset.from_tensor_slices(_ragged(wsc.candidates(rows)))
    pairs = tf.data.Dataset.zip((dataset, nouns))
    return pairs.map(lambda row, found: row | {"candidates": found})
