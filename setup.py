"""Builds dpt-jax: two folders beside the package are installed inside it.

Everything else is in pyproject.toml. There, setuptools can either find packages or map folders,
and dpt-jax needs both: `tasks/` is installed as `dpt_jax.tasks` and `gin_configs/` as
`dpt_jax.gin_configs`.
"""

from setuptools import find_packages, setup

INSTALLED_AS = {"tasks": "dpt_jax.tasks", "gin_configs": "dpt_jax.gin_configs"}


def mapped_packages() -> list[str]:
    """Returns every package below the mapped folders, under the name it is installed as."""
    found = []
    for folder, package in INSTALLED_AS.items():
        found += [package, *(f"{package}.{name}" for name in find_packages(folder))]
    return found


setup(
    packages=find_packages(include=["dpt_jax", "dpt_jax.*"]) + mapped_packages(),
    package_dir={package: folder for folder, package in INSTALLED_AS.items()},
)
