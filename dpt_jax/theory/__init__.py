"""What the papers behind prompts and prefixes claim, as models and algorithms that can be run.

The modules of this package are pure functions of arrays. `experiments` runs them, and writes what
came out. Two papers are meant:

- "On the Role of Attention in Prompt-tuning" (Oymak, Rawat, Soltanolkotabi and Thrampoulidis, ICML
  2023): `contextual_mixture`, `prompt_attention`, `separation`, `three_steps`, `population`,
  `exact_error`.
- "Revisiting Prefix-tuning" (Le et al., ICLR 2025): `prefix_regression`, `voronoi`,
  `least_squares`.

docs/theory.md tells what is the papers' and what is a reading or a derivation of this project's.
"""
