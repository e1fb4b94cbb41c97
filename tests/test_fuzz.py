"""Damaged files of every format through the commands: a result, or one line and status 2.

What may happen to a file, and to which command, is in tests/support/fuzzing.py. Another seed:
`python -m tests.support.fuzzing FOLDER SEED COUNT`.
"""

import json

import pytest

from tests.support import processes

INPUTS, SEED = 500, 0


@pytest.mark.slow
def test_no_damaged_file_ends_in_a_traceback_a_hang_or_a_gigabyte(tmp_path):
    # In a process of its own, whose memory is limited, and which may die.
    done = processes.run("tests.support.fuzzing", tmp_path, SEED, INPUTS)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if "said" in line] == []
    assert done.returncode == 0, (lines[-1:], done.stderr[-3000:])
    assert lines[-1]["tried"] == INPUTS >= 10 * lines[-1]["targets"]
