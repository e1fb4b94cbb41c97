"""MultiRC from its jsonl file to token arrays, through `dpt_multirc`, on two cores.

    python benchmarks/preprocess.py [--examples 27243]

The rows are MultiRC's own training passages, questions and answers (few-shot data without labels)
where they lie beside the checkout, else generated with their lengths; the vocabulary is T5's where
it lies there, else the demo's. A first pass over a few rows is not timed.

The last line is a JSON object:
  examples_per_second   from the call of `get_dataset`, which reads the file, to the last example
                        as NumPy arrays
  tokenizer_examples_per_second
                        SeqIO's tokenizer alone on the same input texts, all in memory
  share                 the first over the second
"""

import argparse
import json
import os
import pathlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import processes

# Beside a checkout, not part of it.
_SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
_MULTIRC = _SHARED / "fewglue" / "MultiRC" / "unlabeled.jsonl"
_VOCABULARY = _SHARED / "t5_vocab" / "sentencepiece.model"

# Of MultiRC's training rows.
_EXAMPLES = 27_243
_PASSAGE_LETTERS, _ANSWERS = 1572, 5

Line = dict[str, Any]


def real_passages() -> list[Line]:
    """MultiRC's training passages, every answer labelled 0."""
    lines = [json.loads(line) for line in _MULTIRC.read_text().splitlines()]
    for line in lines:
        for question in line["passage"]["questions"]:
            for answer in question["answers"]:
                answer["label"] = 0
    return lines


def generated_passages(seed: int = 0) -> Iterator[Line]:
    """Passages of random words with MultiRC's lengths, ten questions each."""
    rng = random.Random(seed)

    def words(letters: int) -> str:
        found = []
        while sum(map(len, found)) + len(found) < letters:
            found.append("".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 8))))
        return " ".join(found)

    number = 0
    while True:
        questions = []
        for i in range(10):
            answers = [{"text": words(25), "idx": j, "label": 0} for j in range(_ANSWERS)]
            questions.append({"question": words(55), "idx": 10 * number + i, "answers": answers})
        text = words(round(_PASSAGE_LETTERS * rng.lognormvariate(-0.06, 0.35)))
        yield {"idx": number, "passage": {"text": text, "questions": questions}}
        number += 1


def write_rows(path: pathlib.Path, examples: int) -> str:
    """Writes `examples` answer options as MultiRC's jsonl, and says where they come from."""
    real = _MULTIRC.exists()
    path.parent.mkdir(parents=True)
    left = examples
    with open(path, "w") as f:
        for line in real_passages() if real else generated_passages():
            for question in line["passage"]["questions"]:
                question["answers"] = question["answers"][:left]
                left -= len(question["answers"])
            f.write(json.dumps(line) + "\n")
            if not left:
                break
    return "MultiRC's training rows" if real else "generated with MultiRC's lengths"


def rate(run: Callable[[], int]) -> float:
    """Examples a second of a pass that returns how many there were."""
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def measure(examples: int) -> dict[str, Any]:
    """Reads, preprocesses and tokenizes; then tokenizes alone."""
    import tensorflow as tf
    from seqio import TaskRegistry

    import dpt_jax.tasks  # noqa: F401

    task = TaskRegistry.get("dpt_multirc")
    vocabulary = task.output_features["inputs"].vocabulary

    def dataset() -> tf.data.Dataset:
        return task.get_dataset({"inputs": 1024, "targets": 16}, split="train", shuffle=False)

    for _ in dataset().take(200).as_numpy_iterator():
        pass
    per_second = rate(lambda: sum(1 for _ in dataset().as_numpy_iterator()))
    rows = list(dataset().as_numpy_iterator())
    texts = [row["inputs_pretokenized"] for row in rows]
    tokens = tf.data.Dataset.from_tensor_slices(texts).map(
        vocabulary.encode_tf, num_parallel_calls=tf.data.AUTOTUNE
    )
    alone = rate(lambda: int(tokens.reduce(0, lambda n, _: n + 1)))
    return {
        "examples": len(texts),
        "mean_source_tokens": sum(len(row["inputs"]) for row in rows) / len(rows),
        "examples_per_second": per_second,
        "tokenizer_examples_per_second": alone,
        "share": per_second / alone,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=_EXAMPLES, help="answer options")
    parser.add_argument("--threads", type=int, default=2, help="cores")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it runs")
    options = parser.parse_args()
    processes.use_cores(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        examples = 60 if options.tiny else options.examples
        source = write_rows(pathlib.Path(folder) / "MultiRC" / "train.jsonl", examples)
        os.environ["DPT_SUPERGLUE_DIR"] = folder
        demo = pathlib.Path(__file__).resolve().parents[1] / "dpt_jax/demo/backbone"
        vocabulary = _VOCABULARY if _VOCABULARY.exists() else demo / "sentencepiece.model"
        os.environ["DPT_VOCAB"] = str(vocabulary)
        print(f"{examples} rows, {source}; {options.threads} cores", flush=True)
        print(json.dumps({"rows": source, "cores": options.threads, **measure(examples)}))


if __name__ == "__main__":
    main()
