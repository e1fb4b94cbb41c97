r"""Compile a run for TPUs that are not there: does it fit, and how fast can it be?

dpt plan --topology=v5e:4x4 --model=t5_1_0_11b --recipe=paper --gin_file=recipes/tpu.gin \
      --gin.MESH="(1, 1, 16)" --gin.BATCH_SIZE=32

The flags, gin files and bindings are those of `dpt train`; task and folders need not be set, and
--model takes the name of a file of models/ as well as a folder. What is compiled are the real
training step and the decoding of an evaluation batch (where EVAL_PERIOD and SCORING ask for any),
by libtpu's own compiler, for batches as long as TASK_FEATURE_LENGTHS. Bytes are the compiler's;
seconds are a roofline estimate from the chip's published rates, and real runs stay behind it.
--search ignores MESH and BATCH_SIZE and finds them.

The exit status is 1 when the compiler refuses.
"""

import argparse
import json
from typing import Any

from dpt_jax.cli import short_flags
from dpt_jax.cli.console import human_bytes, say
from dpt_jax.cli.gin_flags import add_gin_flags, search_paths

HELP = "compile a run for TPUs ahead of time: memory and estimated speed"
_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="chip and slice, such as v5e:4x4"
    )
    short_flags.add_model_flags(parser)
    add_gin_flags(parser, "gin file, repeatable; later ones override earlier ones")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--search", action="store_true", help="find the best mesh and the largest batch that fits"
    )


def run(args: argparse.Namespace) -> int:
    """Compiles and prints."""
    from dpt_jax import gin_utils
    from dpt_jax.errors import InputError
    from dpt_jax.planning.tpus import parse_topology

    where = parse_topology(args.topology)
    paths = search_paths(args)
    short = short_flags.given(args, paths) or short_flags.Given([], [])
    files = [*short.files, *args.gin_file]
    if not files:
        raise InputError(
            "Say what to plan: --model=NAME --recipe=paper --gin_file=recipes/tpu.gin, or all "
            "files, --gin_file=runs/prompt_train.gin first (see dpt plan --help)."
        )
    # What a plan does not depend on need not be set; what the user sets comes after it.
    unset = ["MODEL_DIR = ''", "INITIAL_CHECKPOINT_PATH = None", "MIXTURE_OR_TASK_NAME = ''"]
    unset += ["TRAIN_STEPS = 1000"]
    bindings = [*unset, *short.bindings, *args.gin_bindings]
    from dpt_jax.problems.image_config import ImageRunConfig

    gin_utils.parse(files, bindings, paths, of_run=True)
    gin_utils.check_flags(args.gin_bindings)

    import jax

    # A machine's own accelerators have no part in this.
    jax.config.update("jax_platforms", "cpu")
    from dpt_jax.planning import plan
    from dpt_jax.problems import kinds

    if gin_utils.bound_run() == ImageRunConfig.KIND:
        if args.search:
            raise InputError("--search takes runs on text; name a MESH and a BATCH_SIZE instead.")
        # Whose images they are does not matter.
        gin_utils.parse(files, ["DATA = @images.Digits()", *bindings], paths, of_run=True)
    config = kinds.build()
    of_text = not isinstance(config, ImageRunConfig)
    decoding = of_text and config.eval_period != 0 and config.scoring == "generation"
    if args.search:
        made, candidates = plan.search(config, where, say, decoding)
    else:
        made, candidates = plan.make_plan(config, where, decoding, say), []
    if args.json:
        found = {"candidates": [vars(c) for c in candidates]} if candidates else {}
        print(json.dumps(made.to_json() | found))
    else:
        _print(made)
    if made.fits:
        return 0
    say(f"dpt plan: the TPU compiler refuses {made.refusal}\n{_advice(made)}")
    return 1


def _advice(made: Any) -> str:
    config, (_, _, model) = made.config, made.mesh
    changes = [
        f"--gin.BATCH_SIZE below {config.batch_size}",
        f"--gin.MESH with more than {model} model shards",
    ]
    if config.model.remat_policy != "full":
        changes.append("--gin.REMAT_POLICY=\"'minimal'\" or \"'full'\"")
    changes.append(f"--gin.MICROBATCHES above {config.microbatches}")
    if config.frozen_dtype is None or config.model.dtype.name == "float32":
        changes.append("--gin_file=recipes/tpu.gin (bfloat16)")
    changes.append("a larger --topology")
    search = " --search finds what fits." if hasattr(config, "task_feature_lengths") else ""
    return f"Change one of: {'; '.join(changes)}.{search}"


def _amount(nbytes: float) -> str:
    """Bytes in the unit that shows some of them: a prompt has thousands, a model billions."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1000 or unit == "GiB":
            break
        nbytes /= 1024
    return f"{nbytes:>10.3f} {unit}"


def _print(made: Any) -> None:
    config, where = made.config, made.where
    prompt = 0 if config.prompt is None else config.prompt.length
    if hasattr(config, "task_feature_lengths"):
        lengths = config.task_feature_lengths
        row = f"source {lengths['inputs']}, prompt {prompt}, target {lengths['targets']}"
    else:
        row = f"{config.model.image_size} x {config.model.image_size} pixels, prompt {prompt}"
    print(
        f"{where.name}, {where.chips} chips; MESH = {made.mesh} (data, fsdp, model); "
        f"BATCH_SIZE = {config.batch_size}, {row}"
    )
    limit = where.chip.usable_hbm_bytes
    for name, program in (("training step", made.train), ("decoding", made.decoding)):
        if program is None:
            continue
        memory, costs = program.compiled.memory, program.compiled.costs
        print(f"\n{name}, per chip (compiled in {program.compiled.compile_seconds:.0f} s)")
        for part, size in vars(memory).items():
            print(f"  {part.replace('_', ' '):<24}{_amount(size)}")
        print(f"  {'all of it':<24}{_amount(memory.total)} of {limit / _GIB:.2f} GiB: fits")
        seconds = program.estimate
        rows = (
            ("matrix products", f"{costs.flops / 1e12:.3g} TFLOP", seconds.compute),
            ("bytes moved", human_bytes(costs.bytes), seconds.memory),
            ("collectives", human_bytes(costs.collective_bytes), seconds.collectives),
        )
        for part, amount, time in rows:
            print(f"  {part:<24}{amount:>14}    {time:>9.3g} s at published rates")
        for kind, total in sorted(costs.by_kind().items()):
            moved = human_bytes(total["bytes"])
            print(f"    {kind:<22}{moved:>13}     {total['count']:.0f} times")
        print(f"  {'estimated time':<24}{seconds.total:>10.3g} s")
    if made.train is not None:
        tokens = made.tokens_per_second
        print(
            f"\nestimate: {made.examples_per_second:,.1f} examples/s"
            + (f", {tokens:,.0f} tokens/s" if tokens else "")
        )
