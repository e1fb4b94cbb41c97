"""The demo's SeqIO tasks; importing this module registers them.

`demo_entailment`, `demo_questions` and `demo_wordsense`, and the mixture `demo_superglue` of all
three. Examples are generated in the process, so nothing is downloaded.
"""

import functools

import seqio
import tensorflow as tf

from dpt_jax.demo import MIXTURE, VOCABULARY, superglue


def accuracy(targets: list[str], predictions: list[str]) -> dict[str, float]:
    """Share, 0 to 1, of predictions that equal their target exactly."""
    right = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": right / len(targets)}


def stripped(text: str, **unused_kwargs) -> str:
    """The whole generated answer, without surrounding white space."""
    return text.strip()


def _dataset(
    task: str, split: str, shuffle_files: bool = False, seed: int | None = None
) -> tf.data.Dataset:
    del shuffle_files, seed  # Rows are in random order already, and the same each time.
    texts = [superglue.text_to_text(task, row) for row in superglue.rows(task, split)]
    return tf.data.Dataset.from_tensor_slices(
        {key: [text[key] for text in texts] for key in ("inputs", "targets")}
    )


def register() -> None:
    """Registers the tasks and the mixture; does nothing where they are registered already."""
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY))
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=True),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }
    for task in superglue.TASKS:
        if task in seqio.TaskRegistry.names():
            continue
        seqio.TaskRegistry.add(
            task,
            source=seqio.FunctionDataSource(
                functools.partial(_dataset, task),
                splits=superglue.SPLITS,
                num_input_examples=superglue.SIZES,
            ),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            postprocess_fn=stripped,
            metric_fns=[accuracy],
            output_features=features,
        )
    if MIXTURE not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(MIXTURE, list(superglue.TASKS), default_rate=1.0)


register()
