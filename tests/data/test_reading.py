"""Reading a split in parts: the parts make the whole, and each process reads its own."""

import functools
import json
import os

import pytest

from dpt_jax.data import reading
from dpt_jax.data.examples import load_split
from dpt_jax.demo import VOCABULARY
from dpt_jax.errors import InputError
from tests.support import processes, reading_together, toy_tasks
from tests.tasks import raw_rows

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

LENGTHS = {"inputs": 64, "targets": 6}
# Chosen once per process, and without this it would be looked for in the network.
os.environ.setdefault("DPT_VOCAB", str(VOCABULARY))


def parts(task, number):
    """What each of so many processes reads."""
    dataset = task.source.get_dataset(split="train", shuffle=False)
    count = reading.count_rows(task.source, "train", dataset)
    blocks = [reading.block(count, i, number) for i in range(number)]
    tasks = [reading.with_rows(task, "train", dataset, rows) for rows in blocks]
    return [reading.read(part, "train", LENGTHS) for part in tasks]


def assert_whole(found, task):
    """The parts, one after the other, are what SeqIO itself gives."""
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False, trim_output_features=False)
    expected = list(dataset.as_numpy_iterator())
    rows = [row for part in found for row in part]
    assert len(rows) == len(expected) > 0
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert str(ours[name]) == str(value), name


def made_of(source, *preprocessors):
    toy = seqio.TaskRegistry.get("toy_filtered")
    return toy.replace(source=source, preprocessors=[*preprocessors, *toy.preprocessors])


def sized(rows):
    """The toy task with a source that says how many rows it has."""
    return made_of(
        seqio.FunctionDataSource(
            functools.partial(toy_tasks.dataset_fn, marker="x"), ["train"], {"train": rows}
        )
    )


def of_text_lines(folder):
    for i in range(3):
        lines = [f"{row['targets']} {row['inputs']}" for row in toy_tasks.examples("train")]
        (folder / f"{i}.txt").write_text("\n".join(["header", *lines[i::3]]) + "\n")

    @seqio.map_over_dataset
    def columns(line):
        words = tf.strings.split(line, " ")
        return {"inputs": words[1], "targets": words[0]}

    source = seqio.TextLineDataSource({"train": str(folder / "*.txt")}, skip_header_lines=1)
    return made_of(source, columns)


def of_tfds(folder):
    import tensorflow_datasets as tfds

    class Letters(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A data set of TFDS in several files."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.FeaturesDict({k: tfds.features.Text() for k in LENGTHS})
            return tfds.core.DatasetInfo(builder=self, features=text)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(toy_tasks.examples("train"))

    builder = Letters(data_dir=folder)
    config = tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False)
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=config)
    source = seqio.TfdsDataSource(
        tfds_data_dir=str(builder.data_dir), splits=["train"], read_only=True
    )
    assert len(source.list_shards("train")) == 3
    return made_of(source)


def of_superglue(name, folder, monkeypatch):
    import dpt_jax.tasks  # noqa: F401

    raw_rows.write(folder)
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(folder))
    return seqio.TaskRegistry.get(name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(
    "kind", ["function", "text lines", "tfds", "dpt_record", "dpt_wsc", "dpt_rte_k8_s0"]
)
def test_the_parts_of_every_source_make_the_whole(kind, number, tmp_path, monkeypatch):
    if kind == "function":
        task = seqio.TaskRegistry.get("toy_filtered")
    elif kind == "text lines":
        task = of_text_lines(tmp_path)
    elif kind == "tfds":
        task = of_tfds(tmp_path)
    else:
        task = of_superglue(kind, tmp_path, monkeypatch)
    found = parts(task, number)
    assert_whole(found, task)
    if kind != "dpt_wsc":  # Most of its rows, which are few, are left out.
        assert max(map(len, found)) < sum(map(len, found))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 50, 1000])
def test_a_source_that_says_a_wrong_number_of_rows_is_read_whole(rows):
    assert toy_tasks.SIZES["train"] == 90
    found = parts(sized(rows), 3)
    assert_whole(found, sized(90))
    # Of 90 rows, whose every second one makes two examples.
    expected = {0: [0, 0, 90], 50: [16, 16, 58], 1000: [90, 0, 0]}
    assert [len(part) for part in found] == expected[rows]


@pytest.mark.slow
def test_more_processes_than_rows():
    task = made_of(
        seqio.FunctionDataSource(
            lambda split, shuffle_files: toy_tasks.dataset_fn(split, shuffle_files).take(4),
            ["train"],
        )
    )
    found = parts(task, 7)
    assert_whole(found, task)
    assert max(map(len, found)) == 2


def test_one_process_reads_whole_rows_with_all_features():
    task = seqio.TaskRegistry.get("toy_x")
    [alone], [together] = (
        load_split(task, "train", LENGTHS, together=together) for together in (False, True)
    )
    assert {"inputs_pretokenized", "targets_pretokenized"} < together.rows[0].keys()
    assert [str(row) for row in together.rows] == [str(row) for row in alone.rows]


@pytest.mark.slow
def test_two_processes_preprocess_half_each_and_have_the_order_of_one():
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{processes.free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    started = [
        processes.start([], 2, module=reading_together.__name__, JAX_PROCESS_ID=str(i), **variables)
        for i in range(2)
    ]
    ends = processes.finish(started)
    assert [status for status, _, _ in ends] == [0, 0], ends
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in ends)

    for name in reading_together.NAMES:
        task = seqio.get_mixture_or_task(name)
        [expected] = load_split(task, "train", LENGTHS)
        assert first["tokens"][name] == reading_together.tokens(expected)
        assert first["preprocessed"][name] == second["preprocessed"][name] == 45
    assert first["tokens"] == second["tokens"]

    [expected] = load_split(reading_together.shortened(), "train", LENGTHS)
    for found in (first, second):
        assert found["of its own kind"] == reading_together.tokens(expected)

    # Too long, none at all: of the whole split, in the words of one process, and told once.
    toy = seqio.get_mixture_or_task("toy_x")
    with pytest.raises(InputError) as long:
        load_split(toy, "train", reading_together.SHORT)
    [short] = load_split(toy, "train", reading_together.SHORT, "drop")
    assert first["short"] == second["short"] == reading_together.tokens(short)
    told = str(long.value).split(";")[0]
    assert [err.count(told) for _, _, err in ends] == [1, 0]
    for found in (first, second):
        assert found["refusals"]["long"] == str(long.value)
        assert found["refusals"]["empty"] == "Split 'train' of task 'toy_empty' has no examples."

    # What one process meets stops both.
    late = "Split 'train' of task 'toy_late': row 60 of toy.jsonl has no 'label'"
    assert first["refusals"]["late"] == f"Process 1 cannot go on: {late}"
    assert second["refusals"]["late"] == late
    sizes = "rows of toy_sizes (train): process 0 has 90, process 1 91"
    assert sizes in first["refusals"]["sizes"] and sizes in second["refusals"]["sizes"]
