"""One pass over rows of real lengths: training and greedy evaluation, ours against PEFT's.

    python benchmarks/epoch.py [ROWS VOCAB]

ROWS is a jsonl of `inputs` and `targets`, VOCAB a SentencePiece model. Without them the rows are
few-shot SuperGLUE as T5 text where the data lies beside the checkout, else generated with its
lengths. T5-Small's shape with random weights, 100 prompt tokens, batches of 16, float32, AdamW,
dropout 0.1 in training (T5's own rate) unless `--dropout` says otherwise, 2 threads. Ours trains
and decodes in 16 length buckets (`NUM_BUCKETS`, 8 by default); theirs takes random batches, each
padded to its own longest row. Evaluation decodes exactly 8 tokens per row on both sides. The sides
take turns batch by batch, each in its own process. What compiles does so in a first pass over the
buckets, which is not timed.

The last line is a JSON object:
  train_examples_per_second, peft_train_examples_per_second, train_ratio
  generate_examples_per_second, hf_generate_examples_per_second, generate_ratio
                    rows over the summed seconds of the pass (theirs generates with PEFT's model,
                    which is Hugging Face's `generate` on inputs with the prompt in front).
  recompilations    programs compiled during the timed pass, which must be 0.
"""

import argparse
import contextlib
import importlib.util
import json
import sys

import processes
import rows as row_sources
from sizes import T5_SMALL, TINY, Size

DECODE_LENGTH = 8
PHASES = ("train", "generate")


class OurPass:
    """Batches by length, and the first pass that compiles one program per bucket."""

    def __init__(self, rows, size: Size, dropout: float, num_buckets: int):
        from ours import Ours

        from dpt_jax.data.batches import TrainData, evaluation_batches
        from dpt_jax.data.examples import TaskExamples

        inputs, targets = [x for x, _ in rows], [y for _, y in rows]
        task = TaskExamples("rows", inputs, targets, rows=[{} for _ in rows])
        data = TrainData.create([task], [1.0], size.batch_size, 0, num_buckets)
        self._model = Ours(size, dropout)
        self._train = [data.batch(step) for step in range(data.steps_per_epoch)]
        self._generate = [x for _, x in evaluation_batches(inputs, size.batch_size, num_buckets)]

    def warm_up(self, phases):
        """Runs one batch of every shape."""
        if "train" in phases:
            shapes = {batch["encoder_input_tokens"].shape: batch for batch in self._train}
            for batch in shapes.values():
                self._model.train(batch)
        if "generate" in phases:
            for tokens in {tokens.shape: tokens for tokens in self._generate}.values():
                self._model.generate(tokens, DECODE_LENGTH)
        self._compiled = self._model.compilations
        assert self._compiled, "The count of compilations does not count."

    def counts(self):
        """How many batches a pass has."""
        return {"train": len(self._train), "generate": len(self._generate)}

    def train(self, i: int):
        """Step `i` of the pass."""
        return self._model.train(self._train[i])

    def generate(self, i: int):
        """Batch `i` of the evaluation."""
        return self._model.generate(self._generate[i], DECODE_LENGTH)

    def recompilations(self) -> int:
        """Programs compiled since the warm-up."""
        return self._model.compilations - self._compiled


class TheirPass:
    """Random batches, each padded to its longest row."""

    def __init__(self, rows, size: Size, dropout: float, threads: int):
        from theirs import Theirs

        self._model = Theirs(size, dropout, threads)
        rows = row_sources.shuffled(rows)
        self._batches = [
            self._pad(rows[i : i + size.batch_size]) for i in range(0, len(rows), size.batch_size)
        ]

    @staticmethod
    def _pad(rows):
        import numpy as np

        def stack(tokens):
            out = np.zeros((len(tokens), max(len(t) for t in tokens)), np.int64)
            for row, t in zip(out, tokens, strict=True):
                row[: len(t)] = t
            return out

        return {
            "encoder_input_tokens": stack([x for x, _ in rows]),
            "decoder_target_tokens": stack([y for _, y in rows]),
        }

    def warm_up(self, phases):
        """One batch of each kind, for caches and allocators."""
        for phase in phases:
            getattr(self, phase)(0)

    def counts(self):
        """How many batches a pass has."""
        return {"train": len(self._batches), "generate": len(self._batches)}

    def train(self, i: int):
        """Step `i` of the pass."""
        return self._model.train(self._batches[i])

    def generate(self, i: int):
        """Batch `i` of the evaluation."""
        return self._model.generate(self._batches[i]["encoder_input_tokens"], DECODE_LENGTH)

    def recompilations(self) -> int:
        """Nothing compiles here."""
        return 0


def load_rows(options: argparse.Namespace, size: Size):
    """Where the rows come from, and the rows."""
    source, rows = row_sources.load(options.rows, options.vocabulary)
    if options.tiny:
        rows = [(x[:12] % size.vocab_size, y[:2] % size.vocab_size) for x, y in rows[:10]]
    return source, rows


def serve(options: argparse.Namespace, size: Size) -> None:
    """The child: batches of the pass on demand."""
    processes.use_cores(options.threads)
    if options.side == "ours":
        processes.use_one_device_per_core(options.threads)
    _, rows = load_rows(options, size)
    if options.side == "ours":
        side = OurPass(rows, size, options.dropout, options.buckets)
    else:
        side = TheirPass(rows, size, options.dropout, options.threads)
    side.warm_up(options.phases)
    processes.serve(
        {
            "counts": side.counts,
            "train": lambda i: {"seconds": processes.seconds(lambda: side.train(i))},
            "generate": lambda i: {"seconds": processes.seconds(lambda: side.generate(i))},
            "recompilations": lambda: {"count": side.recompilations()},
            "memory": lambda: {"bytes": processes.peak_memory_bytes()},
        }
    )


def measure(options: argparse.Namespace, source: str, num_rows: int) -> dict[str, object]:
    """Runs the pass on both sides, batch by batch in turn."""
    arguments = [] if options.rows is None else [options.rows, options.vocabulary]
    arguments += ["--threads", str(options.threads), "--buckets", str(options.buckets)]
    arguments += ["--dropout", str(options.dropout), "--phases", *options.phases]
    arguments += ["--tiny"] if options.tiny else []
    rate: dict[tuple[str, str], float] = {}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                processes.start(__file__, [*arguments, "--side", name], options.threads)
            )
            for name in ("ours", "theirs")
        }
        # Waits for the compilations, so that they do not run beside what is timed.
        counts = {name: side.ask("counts") for name, side in sides.items()}
        for phase in options.phases:
            total = dict.fromkeys(sides, 0.0)
            for i in range(max(count[phase] for count in counts.values())):
                for name, side in sides.items():
                    if i < counts[name][phase]:
                        total[name] += side.ask(phase, i=i)["seconds"]
            for name in sides:
                rate[phase, name] = num_rows / total[name]
                print(f"{phase}: {name} {rate[phase, name]:.2f} examples/s", flush=True)
        recompilations = sides["ours"].ask("recompilations")["count"]
        memory = {name: side.ask("memory")["bytes"] for name, side in sides.items()}
    result: dict[str, object] = {"rows": source, "examples": num_rows}
    for phase in options.phases:
        theirs = {"train": "peft", "generate": "hf"}[phase]
        result[f"{phase}_examples_per_second"] = rate[phase, "ours"]
        result[f"{theirs}_{phase}_examples_per_second"] = rate[phase, "theirs"]
        result[f"{phase}_ratio"] = rate[phase, "ours"] / rate[phase, "theirs"]
    return result | {
        "recompilations": recompilations,
        "dropout": options.dropout,
        "buckets": options.buckets,
        "peak_memory_bytes": memory["ours"],
        "peft_peak_memory_bytes": memory["theirs"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="?", metavar="ROWS", help="jsonl of `inputs` and `targets`")
    parser.add_argument("vocabulary", nargs="?", metavar="VOCAB", help="SentencePiece model")
    parser.add_argument(
        "--buckets", type=int, default=16, help="our padded source lengths, at most (NUM_BUCKETS)"
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="default: both")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate on both sides")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each side")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.rows is None) != (options.vocabulary is None):
        parser.error("ROWS needs VOCAB, the SentencePiece model that its text is tokenized with")
    size = TINY if options.tiny else T5_SMALL
    if options.side:
        serve(options, size)
        return
    if importlib.util.find_spec("peft") is None:
        sys.exit("peft is not installed: the comparison needs pip install 'dpt-jax[interop]'")
    source, rows = load_rows(options, size)
    print(f"{len(rows)} rows, {source}; mean source {sum(len(x) for x, _ in rows) / len(rows):.0f}")
    print(json.dumps(measure(options, source, len(rows))))


if __name__ == "__main__":
    main()
