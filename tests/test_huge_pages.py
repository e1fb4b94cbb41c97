"""A program restarts itself once, as the same process with the same arguments."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
print("start", os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), flush=True)
from dpt_jax.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print("goes on", os.getpid(), sys.argv[1:], flush=True)
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's tunable is for Linux")


def lines(**environment):
    kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "a b", "--c"],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@linux
def test_it_starts_again_with_the_tunable_and_then_goes_on():
    first, second, last = lines()
    pid = first.split()[1]
    assert first == f"start {pid} ['a b', '--c'] None"
    assert second == f"start {pid} ['a b', '--c'] glibc.malloc.hugetlb=1"
    assert last == f"goes on {pid} ['a b', '--c']"


def test_a_tunable_of_the_users_own_is_left_alone():
    first, last = lines(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert first.endswith("glibc.malloc.check=0") and last.startswith("goes on")
