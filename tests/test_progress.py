"""How far something is: lines where there is no terminal, a bar where there is one."""

import io
import sys
import time

import pytest

from dpt_jax import progress
from dpt_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, for the test to set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_has_the_rate_since_the_start_and_the_time_that_the_rest_takes(clock, capsys):
    shown = Progress("step", 100, unit="steps")
    clock[0] = 20.0
    # 40 steps in 20 s, and 9,000 are left.
    shown.update(140, 9140, "loss 0.5")
    assert capsys.readouterr().err == "step 140/9140  loss 0.5  2.00 steps/s  1:15:00 left\n"


def test_lines_come_every_ten_seconds_and_at_the_end(clock, capsys):
    shown = Progress("step")
    for clock[0], step in ((1.0, 1), (9.0, 2), (11.0, 3), (12.0, 4), (13.0, 5)):
        shown.update(step, 5)
    steps = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert steps == ["3/5", "5/5"]


def test_without_lines_only_what_is_said_is_printed(clock, capsys):
    shown = Progress("sweep", lines=False)
    clock[0] = 60.0
    shown.update(2, 4)
    shown.say("[2/4] a=1: 5.00")
    shown.update(4, 4)
    assert capsys.readouterr().err == "[2/4] a=1: 5.00\n"
    assert shown.left(2, 4) == "1:00 left"


def test_a_note_is_a_line_where_there_is_no_bar(capsys):
    Progress("sweep", lines=False).note(1, 8, "0:10  a=1: step 3/5")
    assert capsys.readouterr().err == "sweep 0:10  a=1: step 3/5\n"


def test_what_takes_long_is_told_of_while_it_runs():
    told = []
    with progress.told_while(told.append, seconds=0.01):
        while len(told) < 3:
            time.sleep(0.01)
    count = len(told)
    assert told == sorted(told) and told[0] >= 0.01
    time.sleep(0.05)
    assert len(told) == count


def test_amounts_are_written_as_they_are_told_to(clock, capsys):
    shown = Progress("converted", shown=lambda n: f"{n / 1e9:.2f} GB")
    clock[0] = 3.0
    shown.update(1_500_000_000, 1_500_000_000)
    assert capsys.readouterr().err == "converted 1.50 GB/1.50 GB  0:00 left\n"


def test_a_terminal_has_a_bar_and_what_is_said_above_it(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown = Progress("step")
    shown.say("a [text] in brackets")
    shown.update(3, 5, "loss [0.5]")
    shown.close()
    assert "a [text] in brackets" in terminal.getvalue()
    assert "3/5  loss [0.5]" in terminal.getvalue()
