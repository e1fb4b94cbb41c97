"""`dpt convert` that kills itself: `python -m tests.support.killed_conversion BYTES SOURCE TARGET`.

The process ends, as by a power cut, once it has written BYTES of the parameters.
"""

import os
import signal
import sys


def main() -> int:
    from dpt_jax.cli.main import main as dpt
    from dpt_jax.progress import Progress

    update = Progress.update

    def dying_update(self, done, total):
        update(self, done, total)
        if done >= int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    Progress.update = dying_update
    return dpt(["convert", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
