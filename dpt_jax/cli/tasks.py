"""Look at tasks: which there are, what their examples become, and how long they are.

dpt tasks                               # tasks and mixtures with their splits
dpt tasks show dpt_wsc --n 3            # raw example, text, token ids and token counts
dpt tasks lengths dpt_multirc           # percentiles, and what each choice of buckets pads
dpt tasks --module my_project.tasks     # your own
dpt tasks show my_task --module my_project.tasks --model /models/t5-small

SuperGLUE's rows and vocabulary are where DPT_SUPERGLUE_DIR and DPT_VOCAB say in the environment, or
--gin.SUPERGLUE_DIR=folder and --gin.VOCABULARY=spiece.model.
"""

import argparse
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dpt_jax.cli.console import print_table
from dpt_jax.data import text_tasks

HELP = "list tasks, show examples and their lengths"
ACTIONS = ("list", "show", "lengths")
MODULES = ("dpt_jax.tasks", "dpt_jax.demo.tasks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "action", nargs="?", default="list", metavar="ACTION", help="list, show or lengths"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task or mixture")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"module that registers tasks, repeatable (default: {', '.join(MODULES)})",
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="a T5, whose vocabulary a task of texts has that brings none",
    )
    parser.add_argument("--split", metavar="SPLIT", help="default: train, where there is one")
    parser.add_argument(
        "--n", type=int, default=3, metavar="N", help="examples to show of each task (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON value instead of text")


def run(args: argparse.Namespace) -> None:
    """Lists, shows or measures."""
    from dpt_jax.data.folder_vocabulary import with_vocabulary
    from dpt_jax.data.tasks import check_split, get_provider, get_vocabulary, import_tasks, parts
    from dpt_jax.data.vocabularies import check_special_ids
    from dpt_jax.errors import InputError, nearest_names
    from dpt_jax.files import json_dumps
    from dpt_jax.interop import open_backbone

    if args.action not in ACTIONS:
        raise InputError(
            f"dpt tasks has no {args.action!r}; it takes {', '.join(ACTIONS)}."
            f"{nearest_names(args.action, ACTIONS)}"
        )
    if args.action == "list" and args.name is not None:
        raise InputError(f"dpt tasks list takes no name; did you mean: dpt tasks show {args.name}?")
    if args.action != "list" and args.name is None:
        raise InputError(f"Name a task: dpt tasks {args.action} NAME; dpt tasks lists them.")
    if args.n < 1:
        raise InputError(f"--n is {args.n}; it must be at least 1.")
    modules = [import_tasks(module, "--module") for module in args.module or MODULES]
    if args.gin_bindings:
        from dpt_jax import gin_utils

        ours = MODULES[0] in (args.module or MODULES)
        gin_utils.parse(["tasks/superglue.gin"] if ours else [], args.gin_bindings)
    if args.action == "list":
        found: Any = listing(modules)
        show: Callable[[Any], None] = _print_listing
    else:
        provider = next(filter(None, (text_tasks.find(m, args.name) for m in modules)), None)
        if provider is None:
            provider = get_provider(
                args.name, remedy="dpt tasks lists them; --module names the module of your own."
            )
        rows = open_backbone(args.model).config.vocab_size if args.model else 0
        provider = with_vocabulary(provider, args.model, rows, "--model")
        tasks = [task for task, _ in parts(provider)]
        split = args.split or ("train" if all("train" in t.splits for t in tasks) else None)
        split = split or next(iter(tasks[0].splits))
        for task in tasks:
            check_split(task, split)
        check_special_ids(get_vocabulary(provider), provider.name)
        if args.action == "show":
            found = [ex for task in tasks for ex in examples(task, split, args.n)]
            show = _print_examples
        else:
            found = measure(provider, split)
            show = _print_lengths
    if args.json:
        print(json_dumps(found, ensure_ascii=False))
    else:
        show(found)


def listing(modules: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Every registered task and mixture: name, splits with sizes (None: not known), subtasks.

    Args:
      modules: imported modules, whose tasks of texts are listed, too.
    """
    from dpt_jax.data.tasks import import_seqio

    seqio = import_seqio()
    found: list[dict[str, Any]] = []
    for name in sorted(seqio.TaskRegistry.names()):
        task = seqio.TaskRegistry.get(name)
        found.append({"name": name, "kind": "task", "splits": _sizes(task)})
    tasks = {row["name"]: row["splits"] for row in found}
    for name in sorted(seqio.MixtureRegistry.names()):
        parts = [task.name for task in seqio.MixtureRegistry.get(name).tasks]
        shared = [s for s in tasks[parts[0]] if all(s in tasks[p] for p in parts)] if parts else []
        splits = {}
        for split in shared:
            sizes = [tasks[part][split] for part in parts]
            splits[split] = None if None in sizes else sum(sizes)
        found.append({"name": name, "kind": "mixture", "splits": splits, "tasks": parts})
    registered = {row["name"] for row in found}
    for one in (one for module in modules for one in text_tasks.listed(module)):
        if one.name in registered:
            continue
        # How many rows there are would have to be read.
        names = [task.name for task, _ in one.parts]
        splits = dict.fromkeys(s for s in one.parts[0][0].splits)
        row = {"name": one.name, "kind": "task", "splits": splits}
        if isinstance(one, text_tasks.TextMixture):
            row |= {"kind": "mixture", "tasks": names}
        found.append(row)
    return found


def _sizes(task: Any) -> dict[str, int | None]:
    """Rows of the splits that have any, None where it takes a look at a data set of TFDS."""
    import seqio

    # To say how many rows it has, a data set that is not prepared goes to the network.
    if isinstance(task.source, seqio.TfdsDataSource):
        return dict.fromkeys(task.splits)
    sizes = {split: task.num_input_examples(split) for split in task.splits}
    return {split: size for split, size in sizes.items() if size != 0}


def examples(task: Any, split: str, count: int) -> list[dict[str, Any]]:
    """The first `count` examples of a split, each with the raw row that it was made from."""
    if isinstance(task, text_tasks.TextTask):
        given = itertools.islice(task.rows(split), count)
        made = task.read(split, most=count)
        return [_example(task, split, raw, row) for raw, row in zip(given, made, strict=True)]
    return [example for example, _ in zip(_examples(task, split), range(count), strict=False)]


def _examples(task: Any, split: str) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    from dpt_jax.data import reading

    with reading.task_errors(task.name, split):
        for raw in task.source.get_dataset(split=split, shuffle=False):
            # One row at a time, because a row may give no example, or several.
            made = task.preprocess_precache(tf.data.Dataset.from_tensors(raw))
            made = task.preprocess_postcache(made, sequence_length=None)
            plain = tf.nest.map_structure(lambda x: x.numpy(), raw)
            for row in made.as_numpy_iterator():
                yield _example(task, split, plain, row)


def _example(task: Any, split: str, raw: Any, row: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a row: the raw one, and texts and tokens of its features."""
    example: dict[str, Any] = {"task": task.name, "split": split, "raw": raw}
    for name, feature in task.output_features.items():
        tokens = [int(t) for t in row[name]]
        text = row.get(f"{name}_pretokenized")
        example[name] = {
            "text": feature.vocabulary.decode(tokens) if text is None else text,
            "tokens": tokens,
            "count": len(tokens),
        }
    if "candidates" in row:
        example["candidates"] = row["candidates"]
    return example


def measure(provider: Any, split: str) -> dict[str, Any]:
    """Percentiles of the lengths, in tokens with EOS, of every task, and the cost of padding."""
    import dataclasses

    from dpt_jax.data import lengths
    from dpt_jax.data.examples import load_split

    unlimited = {"inputs": 1 << 30, "targets": 1 << 30}
    tasks = load_split(provider, split, unlimited)
    sources = [len(x) for task in tasks for x in task.inputs]
    return {
        "name": provider.name,
        "split": split,
        "tasks": {
            task.name: {
                "examples": len(task.inputs),
                "inputs": _statistics(task.inputs),
                "targets": _statistics(task.targets),
            }
            for task in tasks
        },
        "padding": [
            dataclasses.asdict(cost) | {"ratio": round(cost.ratio, 4)}
            for cost in (lengths.padding_cost(sources, n) for n in lengths.NUM_BUCKETS)
        ],
    }


def _statistics(rows: list[Any]) -> dict[str, Any]:
    from dpt_jax.data import lengths

    counts = [len(row) for row in rows]
    found = lengths.percentiles(counts)
    return {"mean": round(sum(counts) / len(counts), 1), "percentiles": found}


def _print_listing(found: list[dict[str, Any]]) -> None:
    from dpt_jax.data.tasks import DRAWN

    names = {row["name"] for row in found}
    drawn: dict[str, list[re.Match]] = {}
    shown = []
    for row in found:
        match = DRAWN.fullmatch(row["name"])
        if match and match["task"] in names:
            drawn.setdefault(match["task"], []).append(match)
        else:
            shown.append(row)
    for kind, title in (("task", "tasks"), ("mixture", "mixtures")):
        rows = [row for row in shown if row["kind"] == kind]
        if not rows:
            continue
        last = "draws" if kind == "task" else "tasks"
        lines = []
        for row in rows:
            splits = ", ".join(
                split if size is None else f"{split} {size:,}"
                for split, size in row["splits"].items()
            )
            if kind == "task":
                more = _suffixes(drawn.get(row["name"], []))
            else:
                more = ", ".join(row["tasks"])
            lines.append((row["name"], splits, more))
        print_table((title, "splits (rows)", last), lines, left=3)


def _suffixes(drawn: list[re.Match]) -> str:
    """What the names of a task's draws end in: so many rows (k) or so many percent (p), a seed."""
    found = []
    for unit in "kp":
        of_unit = [match for match in drawn if match["unit"] == unit]
        amounts, seeds = (
            ",".join(map(str, sorted({int(match[part]) for match in of_unit})))
            for part in ("amount", "seed")
        )
        if of_unit:
            found.append(f"_{unit}{{{amounts}}}_s{{{seeds}}}")
    return " ".join(found)


def _print_examples(found: list[dict[str, Any]]) -> None:
    from dpt_jax.files import json_dumps, json_ready

    if not found:
        print("No examples.")
    for number, example in enumerate(found, 1):
        print(f"{example['task']} {example['split']} {number}")
        raw = example["raw"] if isinstance(example["raw"], dict) else {"": example["raw"]}
        for name, value in raw.items():
            shown = json_ready(value)
            if not isinstance(shown, str):
                shown = json_dumps(shown, ensure_ascii=False)
            print(f"  raw {name}: {shown}".replace("\n", "\\n"))
        for name, value in example.items():
            if isinstance(value, dict) and name != "raw":
                text = json_ready(value["text"]).replace("\n", "\\n")
                ids = " ".join(map(str, value["tokens"]))
                print(f"  {name}: {text}")
                print(f"  {name}, {value['count']} tokens: {ids}")
        if "candidates" in example:
            shown = " | ".join(json_ready(example["candidates"]))
            print(f"  candidates: {shown}")
        print()


def _print_lengths(found: dict[str, Any]) -> None:
    from dpt_jax.data.lengths import PERCENTILES

    print(f"{found['name']}, {found['split']}: tokens with EOS")
    rows = [
        (
            name if feature == "inputs" else "",
            feature,
            f"{task['examples']:,}",
            f"{task[feature]['mean']:.1f}",
            *map(str, task[feature]["percentiles"].values()),
        )
        for name, task in found["tasks"].items()
        for feature in ("inputs", "targets")
    ]
    print_table(("task", "feature", "rows", "mean", *(f"{p}%" for p in PERCENTILES)), rows, left=2)
    rows = [
        (
            str(cost["num_buckets"]),
            f"{cost['ratio']:.3f}",
            f"{cost['padded_tokens']:,}",
            " ".join(map(str, cost["buckets"])),
        )
        for cost in found["padding"]
    ]
    print_table(("NUM_BUCKETS", "padded / real", "padded tokens", "source buckets"), rows, left=0)
