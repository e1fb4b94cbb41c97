"""Tables on standard output, and messages beside it."""

import sys
from collections.abc import Iterable, Sequence


def say(text: str) -> None:
    """Prints a message for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, title: str = ""
) -> None:
    """Prints a table, as wide as the terminal; in a pipe no cell is folded.

    Args:
      header: titles of the columns; without any the table has no frame.
      rows: a text for each column, shown as it is; an empty row is a line between the others.
      left: how many columns at the left are names; the others are numbers, set to the right.
      title: the table's heading.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    frame = box.SIMPLE if header else None
    table = Table(title=title, box=frame, show_header=bool(header), padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for cells in rows:
        if cells:
            table.add_row(*cells)
        else:
            table.add_section()
    # What reads a pipe has a width of its own, or none.
    width = None if sys.stdout.isatty() else 100_000
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def human_bytes(nbytes: float) -> str:
    """A number of bytes in the largest unit that it has some of, as "5.06 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.3g} {unit}"
