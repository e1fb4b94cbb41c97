"""Sweeps: many runs that differ in a few gin bindings, and what they show together.

`definition` says what a sweep is and which points it has, `folder` keeps their results,
`launchers` runs them.
"""

from dpt_jax.analysis.sweeps.definition import Point, Report, Sweep

__all__ = ["Point", "Report", "Sweep"]
