"""Training a prompt on a frozen backbone: configuration, data, step, loop, checkpoints."""
