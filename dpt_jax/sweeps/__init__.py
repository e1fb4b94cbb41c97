"""Sweeps: many runs that differ in a few gin bindings, and what they show together.

`definition` says what a sweep is and which points it has, `chosen` has another sweep's results
choose some of them, `folder` keeps their results, `local` and `on_ray` run them, and `population`
trains several of them as one.
"""

from dpt_jax.analysis.report import Report
from dpt_jax.sweeps.chosen import chosen_points
from dpt_jax.sweeps.definition import Point, Sweep

__all__ = ["Point", "Report", "Sweep", "chosen_points"]
