"""`python -m dpt_jax` is the `dpt` command."""

import sys

from dpt_jax.cli.main import main

sys.exit(main())
