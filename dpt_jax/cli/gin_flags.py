"""The flags that name gin files."""

import argparse


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
