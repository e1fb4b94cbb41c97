"""`PromptedT5.fit` against `dpt train` and PEFT on the same pairs.

    python benchmarks/fit.py [--turns N] [--steps N]

The demo's T5 (1.3 million parameters) in a folder of Hugging Face, the 4,096 training rows of
`demo_wordsense`, 20 prompt tokens (ours decomposed, b = 4; PEFT's vanilla), batches of 32, AdamW.
Every measurement is a process of its own; the sides take turns.

All read the rows from a file of JSON; `dpt train` as a task of texts (`TEXT_TASKS`), and as the
same task in SeqIO's registry, which generates them.

The last line is a JSON object, of medians over the turns:
  fit_start_seconds, train_start_seconds, seqio_start_seconds, peft_start_seconds
                 from `python` to the end of the first step: imports, the model, the rows and their
                 tokens, compilation, the step. Nothing is kept from one process to the next.
  fit_warm_start_seconds, train_warm_start_seconds, seqio_warm_start_seconds
                 the same with JAX's programs kept (JAX_COMPILATION_CACHE_DIR).
  the same names with processor_seconds
                 what the whole process took of the cores, its end included. On a machine that
                 others use, too, this says more.
  fit_start_ratio, train_start_ratio, seqio_start_ratio and those of warm starts
                 peft_start_processor_seconds over ours.
  fit_seconds, train_seconds
                 `--steps` steps as both report them, their programs kept.
  ratio          the median over the turns of train_seconds over fit_seconds.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

TASK, LENGTH, BOTTLENECK, BATCH, TARGET = "demo_wordsense", 20, 4, 32, 6
FIT = f"""
import json, sys
import dpt_jax
method = dpt_jax.DecomposedPrompt(length={LENGTH}, bottleneck={BOTTLENECK})
t5 = dpt_jax.PromptedT5.from_pretrained("t5", method)
pairs = json.load(open("pairs.json"))
history = t5.fit(pairs, steps=int(sys.argv[1]), batch_size={BATCH}, max_target_length={TARGET})
print(history.seconds)
"""
PEFT = f"""
import json, sys
import peft, torch, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained("t5")
model = transformers.AutoModelForSeq2SeqLM.from_pretrained("t5")
config = peft.PromptTuningConfig(
    task_type=peft.TaskType.SEQ_2_SEQ_LM, num_virtual_tokens={LENGTH}, num_transformer_submodules=1
)
model = peft.get_peft_model(model, config)
pairs = json.load(open("pairs.json"))
encoded = tokenizer([x for x, _ in pairs], text_target=[y for _, y in pairs])
trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=0.3, weight_decay=1e-5)
collate = transformers.DataCollatorForSeq2Seq(tokenizer, model)
rows = [{{name: encoded[name][i] for name in encoded}} for i in range({BATCH})]
loss = model(**collate(rows)).loss
loss.backward()
optimizer.step()
print(float(loss.detach()))
print("step 1/1", file=sys.stderr, flush=True)
"""
# What `dpt train` is given beside the model: the task's name, and the module that has it.
TEXTS = ("pairs_of_texts", "text_tasks_of_pairs")
SEQIO = (TASK, "dpt_jax.demo.tasks")
TEXT_TASKS = f"""
import json
import dpt_jax

def rows(split):
    return [{{"inputs": x, "targets": y}} for x, y in json.load(open("pairs.json"))]

TEXT_TASKS = [dpt_jax.TextTask("{TEXTS[0]}", rows)]
"""
_FIRST_STEP = "step 1/1"


OURS = ("fit", "train", "seqio")


def prepare(folder: pathlib.Path) -> None:
    """Writes what all sides read: the model with its tokenizer, and the pairs."""
    import sentencepiece
    import transformers

    from dpt_jax import demo
    from dpt_jax.demo import superglue

    subprocess.run(
        [sys.executable, "-m", "dpt_jax", "convert", demo.BACKBONE_DIR, "t5", "--to", "hf"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    processor = sentencepiece.SentencePieceProcessor(str(demo.VOCABULARY))
    pieces = [
        (processor.IdToPiece(i), processor.GetScore(i)) for i in range(processor.GetPieceSize())
    ]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder / "t5")
    texts = [superglue.text_to_text(TASK, row) for row in superglue.rows(TASK, "train")]
    pairs = [(text["inputs"], text["targets"]) for text in texts]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / f"{TEXTS[1]}.py").write_text(TEXT_TASKS)


def train(model_dir: pathlib.Path, steps: int, task: tuple[str, str] = TEXTS) -> list[str]:
    """The arguments of `dpt train` on the same rows."""
    name, module = task
    macros = {
        "TRAIN_STEPS": steps,
        "EVAL_PERIOD": 0,
        "BATCH_SIZE": BATCH,
        "PROMPT_LENGTH": LENGTH,
        "BOTTLENECK": BOTTLENECK,
        "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": TARGET},
        "MIXTURE_OR_TASK_MODULE": module,
    }
    short = ["--model=t5", f"--task={name}", f"--output={model_dir}"]
    flags = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return ["-m", "dpt_jax", "train", *short, *flags]


def start(folder: pathlib.Path, argv: Sequence[str], cache: str = "") -> tuple[float, float, str]:
    """Runs Python to its end.

    Returns:
      Seconds until it says that the first step is done; the processor's seconds, user's and
      system's, of all threads; and what it printed.
    """
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "DPT_COMPILATION_CACHE": "off",
        # Programs that take less than a second to compile are kept, too.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds, said = float("nan"), []
    for line in process.stderr:
        said.append(line)
        if line.startswith(_FIRST_STEP):
            seconds = time.perf_counter() - began
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[:4]} ended with {process.returncode}: {''.join(said)[-2000:]}")
    return seconds, used.ru_utime + used.ru_stime, output


def main() -> None:
    """Measures, and prints each number as it comes and the medians at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tiny", action="store_true", help="once each, for a test")
    args = parser.parse_args()
    turns, steps = (1, 2) if args.tiny else (args.turns, args.steps)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        prepare(folder)
        cache, runs = str(folder / "programs"), iter(range(10**6))

        def note(name: str, number: float) -> None:
            found.setdefault(name, []).append(number)
            print(name, round(number, 3), file=sys.stderr, flush=True)

        def measure(name: str, argv: Sequence[str], cache: str = "") -> None:
            seconds, processor, _ = start(folder, argv, cache)
            note(f"{name}_seconds", seconds)
            note(f"{name}_processor_seconds", processor)

        def training(count: int, task: tuple[str, str] = TEXTS) -> list[str]:
            return train(folder / f"run{next(runs)}", count, task)

        def sides() -> dict[str, list[str]]:
            ours = {"fit": ["-c", FIT, "1"], "train": training(1), "seqio": training(1, SEQIO)}
            return ours | {"peft": ["-c", PEFT]}

        # What is counted finds the files and the programs in memory or on the disk.
        for argv in [] if args.tiny else sides().values():
            start(folder, argv, cache)
        for _ in range(turns):
            for side, argv in sides().items():
                measure(f"{side}_start", argv)
            for side in OURS:
                measure(f"{side}_warm_start", sides()[side], cache)
        for turn in range(turns + (not args.tiny)):
            by_fit = float(start(folder, ["-c", FIT, str(steps)], cache)[2])
            by_train = json.loads(start(folder, training(steps), cache)[2])["train_seconds"]
            if turn or args.tiny:  # The first one compiles.
                note("fit_seconds", by_fit)
                note("train_seconds", by_train)
                note("ratio", by_train / by_fit)
    medians = {name: round(statistics.median(values), 3) for name, values in found.items()}
    peft = medians["peft_start_processor_seconds"]
    for name in [f"{side}_{start}" for side in OURS for start in ("start", "warm_start")]:
        medians[f"{name}_ratio"] = round(peft / medians[f"{name}_processor_seconds"], 3)
    print(json.dumps({"turns": turns, "steps": steps, "cores": os.cpu_count(), **medians}))


if __name__ == "__main__":
    main()
