"""The linear problem in a bucket: `python -m tests.support.killed_in_bucket ROOT CHANGES`.

The bucket is the folder ROOT. The process dies, as by a power cut, at the change of the bucket that
comes after so many others; those of its lock do not count.
"""

import pathlib
import sys

from dpt_jax import locks, run_files
from tests.support import fake_bucket
from tests.support.killed import die


def quick_locks() -> None:
    """Locks of buckets that expire soon."""
    locks.HEARTBEAT_SECONDS, locks.EXPIRY_SECONDS, locks.SETTLE_SECONDS = 0.2, 1.0, 0.05


def main(root: pathlib.Path, changes: int) -> None:
    from dpt_jax.training import trainer
    from tests.training.test_problem import config, problem

    left = changes

    def count(what, path):
        nonlocal left
        if path.name != run_files.LOCK:
            left -= 1
            if left < 0:
                die()

    quick_locks()
    fake_bucket.before_change[0] = count
    with fake_bucket.mounted(root):
        trainer.train(config("gs://bucket/run", eval_period=6), problem())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
