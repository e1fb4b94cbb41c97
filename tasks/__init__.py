"""The place for SeqIO tasks and mixtures, installed as `dpt_jax.tasks`."""

if __name__ != "dpt_jax.tasks":
    # From the repository's root the folder can also be found as `tasks`: a second module, which
    # would register every task a second time.
    raise ImportError(f"import this package as `dpt_jax.tasks`, not as `{__name__}`")
