"""The gin files that configure training, installed as the resources of `dpt_jax.gin_configs`."""
