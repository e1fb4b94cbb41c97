"""Memory in huge pages, for training on a CPU.

XLA takes the arrays of every step from malloc and gives them back, and Linux then faults them in
again 4 KB at a time: some 190,000 faults per step at T5-Small's size, a tenth of its time. glibc
asks for huge pages where a tunable says so, but reads it before a program's first line.
"""

import os
import sys

_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Replaces this process by itself with huge pages on; returns where that is done or useless.

    To be called by programs first of all, before JAX is imported. A `GLIBC_TUNABLES` that is
    already set, whatever its value, is left alone.
    """
    if sys.platform != "linux" or _VARIABLE in os.environ or not sys.orig_argv:
        return
    os.environ[_VARIABLE] = _TUNABLE
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
