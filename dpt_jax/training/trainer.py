"""Training: everything that can be wrong is found first, then the run takes its steps."""

from collections.abc import Callable
from typing import Any

from dpt_jax.data.batches import TrainData
from dpt_jax.data.examples import checksum, load_split
from dpt_jax.data.tasks import few_shot_ids, import_seqio
from dpt_jax.devices import agreement, partitioning
from dpt_jax.evaluation.evaluator import Evaluator
from dpt_jax.models import Transformer
from dpt_jax.training import run_folder, setup
from dpt_jax.training.config import RunConfig
from dpt_jax.training.run import Run


def train(config: RunConfig, gin_config: Callable[[], str] = str) -> dict[str, Any]:
    """Trains, evaluates and checkpoints; continues the run when `model_dir` holds it.

    Everything that can be wrong with the input is found before anything is compiled or written.

    Args:
      config: the run.
      gin_config: returns the operative gin configuration, to be kept as `config.gin`.

    Returns:
      The contents of `summary.json`.

    Raises:
      InputError: for input that cannot be used.
      NonFiniteLossError: when the loss is not finite.
      Stopped: after SIGTERM or SIGINT, when the state has been saved.
    """
    with agreement.raise_everywhere():
        run_folder.check_identity(config)
        mesh = partitioning.make_mesh(config.mesh)
        partitioning.check_batch("BATCH_SIZE", config.batch_size, mesh, config.microbatches)
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, mesh)
        provider, vocabulary = setup.open_task(config)
        backbone = setup.frozen_of(config)
        fingerprint = setup.fingerprint(backbone)
        run_folder.check_identity(config, fingerprint)
        params = dict(backbone)
        if config.prompt is not None:
            params["prompt"] = setup.init_prompt(
                config.prompt, backbone, vocabulary, config.random_seed
            )
        train_data = load_training_data(config, provider)
        model = Transformer(config.model, config.prompt)
        evaluator = None
        if config.eval_period != 0:
            evaluator = make_evaluator(config, model, provider, vocabulary, mesh)
            evaluator.check_metrics(config.best_metric)
    if agreement.process_count() > 1:
        examples = checksum(train_data.tasks + (evaluator.examples if evaluator else []))
        facts = run_folder.everything(config, fingerprint, examples)
        agreement.check_same("configuration", facts)

    with partitioning.activate(mesh):
        run = Run(config, model, mesh, params, train_data, evaluator)
        if run.is_finished():
            return run.already_finished()
        if agreement.is_first():
            run_folder.clear_unfinished(config.model_dir)
            drawn = few_shot_ids(task.name for task in train_data.tasks)
            run_folder.write_identity(config, fingerprint, gin_config(), drawn)
        with agreement.raise_everywhere():
            agreement.broadcast_from_first(None)
            run_folder.check_shared(config.model_dir)
        return run.loop()


def load_training_data(config: RunConfig, provider: Any) -> TrainData:
    """The training split of a configuration's task or mixture, with its schedule of batches."""
    seqio = import_seqio()
    tasks = load_split(
        provider,
        config.train_split,
        config.task_feature_lengths,
        config.overlength,
        together=True,
    )
    rates = [1.0]
    if isinstance(provider, seqio.Mixture):
        rates = [provider.get_rate(task) for task in seqio.get_subtasks(provider)]
    return TrainData.create(tasks, rates, config.batch_size, config.random_seed, config.num_buckets)


def make_evaluator(
    config: RunConfig, model: Transformer, provider: Any, vocabulary: Any, mesh: Any
) -> Evaluator:
    """The evaluator of a configuration's task and split."""
    seqio = import_seqio()
    # Evaluation reads whole targets for its metrics; only the sources meet the model. It needs all
    # features of every row, so that every process reads the whole split.
    examples = load_split(
        provider, config.eval_split, config.task_feature_lengths, config.overlength
    )
    return Evaluator(
        model,
        {task.name: task for task in seqio.get_subtasks(provider)},
        examples,
        vocabulary,
        mesh=mesh,
        batch_size=config.decode_batch_size,
        num_buckets=config.num_buckets,
        max_decode_length=config.task_feature_lengths["targets"],
        beam_size=config.beam_size,
        scoring=config.scoring,
    )
