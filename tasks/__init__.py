"""SeqIO tasks and mixtures: text-to-text tasks for a T5, installed as `dpt_jax.tasks`."""
