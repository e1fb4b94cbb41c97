"""The flags that name gin files."""

import argparse

from dpt_jax.errors import InputError


def add_gin_flags(parser: argparse.ArgumentParser, files: str) -> None:
    """Adds `--gin_file`, with `files` as its help, and `--gin_search_paths`."""
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help=files)
    parser.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIR",
        help="folder to look for gin files in, repeatable or separated by commas",
    )


def search_paths(args: argparse.Namespace) -> list[str]:
    """The folders of `--gin_search_paths`."""
    return [path for paths in args.gin_search_paths for path in paths.split(",") if path]


def refuse_bindings(args: argparse.Namespace, what: str) -> None:
    """Raises InputError for `--gin.NAME=VALUE` where `what` reads no settings."""
    if args.gin_bindings:
        raise InputError(f"{what} takes no gin bindings, but got {args.gin_bindings[0]!r}.")
