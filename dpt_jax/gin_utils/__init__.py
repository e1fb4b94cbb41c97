"""Reading gin files and `--gin.NAME=VALUE` bindings, with errors that name what to change."""

from dpt_jax.gin_utils.building import bindings, build, operative_config
from dpt_jax.gin_utils.macros import MACROS, check_flags, check_unused_macros, used_macros
from dpt_jax.gin_utils.parsing import bound_run, macros_of, parse, parse_part
from dpt_jax.gin_utils.search import gin_configs, pass_by_plain_folders

__all__ = [
    "MACROS",
    "bindings",
    "bound_run",
    "build",
    "check_flags",
    "check_unused_macros",
    "gin_configs",
    "macros_of",
    "operative_config",
    "parse",
    "parse_part",
    "pass_by_plain_folders",
    "used_macros",
]
