"""The breaks of `python -m tests.breaks` are of the code as it is."""

import shlex

from tests.breaks import BREAKS, ROOT


def test_every_break_finds_its_line_once_and_its_tests():
    for one in BREAKS:
        assert (ROOT / one.file).read_text().count(one.right) == 1, one
        files = [word for word in shlex.split(one.tests) if word.startswith("tests/")]
        assert files and all((ROOT / file.partition("::")[0]).exists() for file in files), one
