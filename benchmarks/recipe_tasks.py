"""The demo's tasks with half of their validation rows, for `benchmarks/recipes.py`."""

import seqio

from dpt_jax.demo import superglue
from dpt_jax.demo import tasks as demo_tasks

ROWS = 200
NAMES = {f"recipe_{task.removeprefix('demo_')}": task for task in superglue.TASKS}


def _register() -> None:
    for name, task in NAMES.items():
        if name in seqio.TaskRegistry.names():
            continue
        original = seqio.TaskRegistry.get(task)

        def dataset(split, shuffle_files=False, seed=None, source=original.source):
            rows = source.get_dataset(split, shuffle_files, seed)
            return rows.take(ROWS) if split == "validation" else rows

        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                dataset,
                splits=superglue.SPLITS,
                num_input_examples=superglue.SIZES | {"validation": ROWS},
            ),
            preprocessors=original.preprocessors,
            postprocess_fn=demo_tasks.stripped,
            metric_fns=[demo_tasks.accuracy],
            output_features=original.output_features,
        )


_register()
