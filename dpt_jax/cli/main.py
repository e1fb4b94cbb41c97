"""The `dpt` command.

Every subcommand is a module of this package with `HELP`, `add_arguments(parser)` and
`run(args) -> int | None`; heavy imports happen in `run`.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from dpt_jax.errors import nearest_names
from dpt_jax.huge_pages import restart_with_huge_pages
from dpt_jax.version import __version__

COMMANDS = (
    "demo",
    "train",
    "evaluate",
    "predict",
    "export",
    "convert",
    "sweep",
    "rank",
    "prefix",
    "report",
    "inspect",
    "tasks",
    "plan",
    "attention",
    "theory",
)
# Those that run programs themselves. A sweep's are run by its workers.
_COMPILING = (
    "demo",
    "train",
    "evaluate",
    "predict",
    "rank",
    "prefix",
    "attention",
    "theory",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status.

    2 is input that cannot be used, 1 a loss that is not finite or a program that does not fit,
    128 + n a stop by signal n.
    """
    if argv is None:
        restart_with_huge_pages()
    # TensorFlow only reads data here: its start-up messages and devices are noise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser, subparsers = (
        argparse.ArgumentParser(
            prog="dpt", description="Decomposed prompt tuning for a frozen T5 in JAX."
        ),
        {},
    )
    parser.add_argument("--version", action="version", version=f"dpt-jax {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of errors in the input"
    )
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"dpt_jax.cli.{name}")
        subparsers[name] = choices.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparsers[name])
        subparsers[name].set_defaults(run=module.run)
    arguments = sys.argv[1:] if argv is None else argv
    # Taken out first: argparse reads an unknown flag with a space in it as a positional argument.
    gin_flags = [a for a in arguments if a.startswith("--gin.")]
    others = [a for a in arguments if a not in gin_flags]
    command = next((a for a in others if not a.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        hint = nearest_names(command, COMMANDS, count=1)
        parser.error(f"there is no command {command!r}; there are {', '.join(COMMANDS)}.{hint}")
    args, unknown = parser.parse_known_args(others)
    # As with `python -m`: a task module in the working directory can be named.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    args.gin_bindings = _gin_bindings([*unknown, *gin_flags], subparsers[args.command])

    from dpt_jax.devices import compilation_cache
    from dpt_jax.errors import InputError, NonFiniteLossError, Stopped, explained

    try:
        if args.command in _COMPILING:
            compilation_cache.start()
        return args.run(args) or 0
    except (InputError, NonFiniteLossError) as e:
        if args.debug:
            raise
        print(f"dpt {args.command}: error: {e}", file=sys.stderr)
        return 2 if isinstance(e, InputError) else 1
    except Stopped as e:
        print(f"dpt {args.command}: {e}; run the same command to continue", file=sys.stderr)
        return 128 + e.signum
    except BrokenPipeError:
        # The reader of our output has gone, as in `dpt predict ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        message = None if args.debug else explained(e)
        if message is None:
            raise
        print(f"dpt {args.command}: error: {message}", file=sys.stderr)
        return 2


def _gin_bindings(unknown: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Turns T5X's `--gin.NAME=VALUE` flags into gin bindings; refuses any other unknown flag."""
    bindings = []
    for argument in unknown:
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not argument.startswith("--gin.") or not equals:
            hint = " (bindings are written --gin.NAME=VALUE)" if "gin" in argument else ""
            flags = [flag for action in parser._actions for flag in action.option_strings]
            nearest = nearest_names(argument.partition("=")[0], flags, count=1)
            parser.error(f"unrecognized argument: {argument}{hint or nearest and '.' + nearest}")
        bindings.append(f"{name} = {value}")
    return bindings


if __name__ == "__main__":
    sys.exit(main())
