"""The demo's tasks with half of their validation rows, for `benchmarks/recipes.py`."""

import dataclasses

from dpt_jax.demo import text_tasks

ROWS = 200


def _short(task: text_tasks.TextTask) -> text_tasks.TextTask:
    def rows(split):
        return task.rows(split)[: ROWS if split == "validation" else None]

    name = f"recipe_{task.name.removeprefix('demo_')}"
    return dataclasses.replace(task, name=name, rows=rows)


TEXT_TASKS = [
    _short(task) for task in text_tasks.TEXT_TASKS if isinstance(task, text_tasks.TextTask)
]
