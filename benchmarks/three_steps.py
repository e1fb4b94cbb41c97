"""The three gradient steps on streamed tokens: `python benchmarks/three_steps.py [--tokens N]`.

The core mixture in 50 dimensions, 500 tokens an example, every token drawn on the device batch by
batch. Compiling is not timed. The last line is a JSON object:
  seconds            wall-clock time of the three steps
  tokens_per_second  tokens over that
  peak_gb            the process's largest resident memory, 10^9 bytes
"""

import argparse
import functools
import json
import resource
import time

import jax

from dpt_jax.theory import contextual_mixture
from dpt_jax.theory.three_steps import three_steps

_LENGTH, _BATCH, _SPLITS = 500, 20, 3


def main() -> None:
    """Times one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=1e8, help="of all three splits (1e8)")
    count = int(parser.parse_args().tokens) // (_SPLITS * _LENGTH)
    mixture = contextual_mixture.core(
        50, context_norm=2.0, head_norm=0.3, share=0.1, length=_LENGTH
    )
    run = jax.jit(functools.partial(three_steps, batch=_BATCH, step_w=1.0, query_norm=1.0))
    jax.block_until_ready(run(mixture, jax.random.key(1), count=_BATCH).w2)
    began = time.perf_counter()
    jax.block_until_ready(run(mixture, jax.random.key(0), count=count).w2)
    seconds = time.perf_counter() - began
    # ru_maxrss is in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    tokens = _SPLITS * _LENGTH * count
    print(
        json.dumps(
            {
                "tokens": tokens,
                "seconds": round(seconds, 1),
                "tokens_per_second": round(tokens / seconds),
                "peak_gb": round(peak, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
