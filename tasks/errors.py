"""What the tasks refuse."""


class TaskError(ValueError):
    """Data or a setting that a task cannot use; the text says what, where, and what to change."""
