"""Tables on standard output."""

import re
import sys

import pytest

from dpt_jax.cli.console import print_table

LONG = " ".join(f"word{i}" for i in range(100))


def test_in_a_pipe_no_cell_is_folded_and_no_text_is_markup(capsys):
    print_table(("name", "value"), [("[bold]x[/bold] :smile:", "1"), (LONG, "20")])
    _, header, _, first, second = (line for line in capsys.readouterr().out.splitlines()[:5])
    assert header.split() == ["name", "value"]
    assert first.split() == ["[bold]x[/bold]", ":smile:", "1"]
    assert second.split() == [*LONG.split(), "20"]
    # Numbers end in one column.
    assert first.rindex("1") == second.rindex("0")


def test_a_table_without_a_header_is_its_rows_alone(capsys):
    print_table((), [("a", "b"), ("longer", "c")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["a", "b"],
        ["longer", "c"],
    ]


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_a_table_is_folded_and_nothing_is_cut(columns, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(("name", "value"), [(LONG, "20")])
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert "".join(lines).count("word") == 100
