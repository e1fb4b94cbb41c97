"""The experiments of `dpt theory`, one file each, by their names."""

from dpt_jax.theory.experiments import (
    debiasing,
    exact_error,
    sample_size,
    separation,
    sharing_rates,
    three_steps,
)
from dpt_jax.theory.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (separation, three_steps, sample_size, debiasing, exact_error, sharing_rates)
}
