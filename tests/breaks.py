"""Breaks the code by hand, one line at a time, and shows that a test fails for each.

    python -m tests.breaks             every break, two at a time
    python -m tests.breaks --only mask relpos --workers 1

A break is a change of one line in a copy of the tree. Its tests must pass before the change and
fail after it; a break that no test notices is printed, and the exit status is then 1. This is run
when tests are made faster or fewer, to show that nothing was lost. It is not a part of the suite.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Break:
    """One line that is wrong.

    Attributes:
      name: what is broken, in a word or two.
      file: where.
      right: the text as it is, which the file holds once.
      wrong: what takes its place.
      tests: what pytest is asked to run: files or tests, and `-k` expressions.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: str


BREAKS = [
    # tasks of texts
    Break(
        "texts without their end token",
        "dpt_jax/data/text_tasks.py",
        "np.asarray([*vocabulary.encode(x), vocabulary.eos_id], np.int32)",
        "np.asarray([*vocabulary.encode(x)], np.int32)",
        "tests/data/test_text_tasks.py -k folder",
    ),
    Break(
        "a draw that takes what is held out",
        "dpt_jax/demo/text_tasks.py",
        "chosen = order[: self.size(len(rows))]",
        "chosen = order[-self.size(len(rows)) :]",
        "tests/demo/test_tasks.py -k inside_one_another",
    ),
    # images
    Break(
        "scores of a vit not scaled",
        "dpt_jax/models/vit/layers.py",
        "queries = self._split_heads(self.query(x)) * self.config.head_dim**-0.5",
        "queries = self._split_heads(self.query(x))",
        "tests/models/vit -k 'numpy and bare'",
    ),
    Break(
        "position of CLS counted twice",
        "dpt_jax/interop/vit/npz.py",
        "return np.concatenate([np.zeros_like(array[:1]), patches])",
        "return np.concatenate([array[:1], patches])",
        "tests/interop/vit -k 'one_tree and linen'",
    ),
    Break(
        "irrelevant tile in the mask",
        "dpt_jax/data/contextual/tiling.py",
        "mask[part] = False",
        "mask[part] = True",
        "tests/data/test_contextual.py -k 'keeps_the_digit and zeros'",
    ),
    Break(
        "share of a draw rounded down",
        "dpt_jax/data/images/draw.py",
        "math.ceil(len(members) * self.percent / 100)",
        "math.floor(len(members) * self.percent / 100)",
        "tests/data/test_images.py -k draws_are_nested",
    ),
    # prompts and their place
    Break(
        "prompt behind the text",
        "dpt_jax/models/injection.py",
        "concatenate([prompt, embedded], axis=1)",
        "concatenate([embedded, prompt], axis=1)",
        "tests/models/test_parity_hugging_face.py -k loss_equals",
    ),
    Break(
        "prompt masked",
        "dpt_jax/models/injection.py",
        "constant_values=1",
        "constant_values=0",
        "tests/models/test_parity_hugging_face.py -k loss_equals",
    ),
    # prefixes
    Break(
        "prefix masked",
        "dpt_jax/models/prefixed.py",
        "wider_mask = jnp.pad(key_mask, wider[-2:], constant_values=True)",
        "wider_mask = jnp.pad(key_mask, wider[-2:], constant_values=False)",
        "tests/models/test_prefixes.py -k concatenation",
    ),
    Break(
        "prefix behind the keys",
        "dpt_jax/models/prefixed.py",
        "return jnp.concatenate([front, back], axis=2)",
        "return jnp.concatenate([back, front], axis=2)",
        "tests/models/test_prefixes.py -k concatenation",
    ),
    Break(
        "prefix in front where it has no place",
        "dpt_jax/models/prefixed.py",
        "return bias(prefix.length) if prefix.in_front else jnp.pad(bias(0), wider)",
        "return bias(prefix.length)",
        "tests/models/test_prefixes.py -k concatenation",
    ),
    Break(
        "prefix of a row for another",
        "dpt_jax/models/prefixed.py",
        "front = jnp.repeat(front.astype(back.dtype), back.shape[0] // front.shape[0], axis=0)",
        "front = jnp.tile(front.astype(back.dtype), (back.shape[0] // front.shape[0], 1, 1, 1))",
        "tests/models/test_prefixes.py -k prefixes_of_their_own",
    ),
    Break(
        "token written over the prefix",
        "dpt_jax/models/stacks.py",
        "index=None if index is None else in_front + index,",
        "index=None if index is None else index,",
        "tests/models/test_prefixes.py -k cached",
    ),
    Break(
        "keys for values",
        "dpt_jax/prefixes/base.py",
        "keys, values = jnp.split(joined, 2, axis=-1)",
        "values, keys = jnp.split(joined, 2, axis=-1)",
        "tests/prefixes -k 'by_hand or share_a'",
    ),
    Break(
        "rows without their norm",
        "dpt_jax/models/prefixed.py",
        "        if normalize:",
        "        if not normalize:",
        "tests/models/test_prefixes.py -k frozen_layer",
    ),
    Break(
        "PEFT's slots in a row",
        "dpt_jax/interop/peft_prefix.py",
        "return 4 * layer % (2 * num_layers), (4 * layer + 1) % (2 * num_layers)",
        "return 2 * layer % (2 * num_layers), (2 * layer + 1) % (2 * num_layers)",
        "tests/interop/test_peft_prefixes.py -k slots",
    ),
    Break(
        "residual without its norm",
        "dpt_jax/prompts/residual.py",
        'return prompt + _LayerNorm(name="layer_norm")(update)',
        'return prompt + update + 0 * _LayerNorm(name="layer_norm")(update)',
        "tests/prompts/test_prompt_modules.py",
    ),
    Break(
        "a closed direction stays open",
        "dpt_jax/prompts/spectral.py",
        "u * jax.nn.relu(sigma)",
        "u * sigma",
        "tests/prompts/test_prompt_modules.py",
    ),
    # the theory
    Break(
        "attention without its own mean",
        "dpt_jax/theory/prompt_attention.py",
        "return tokens.T @ (weights * (read - weights @ read))",
        "return tokens.T @ (weights * read)",
        "tests/theory/test_contextual_mixture.py -k closed_form",
    ),
    Break(
        "the noise across without what was read",
        "dpt_jax/theory/in_law.py",
        "zz = second[:, None] * along + (first / jnp.sqrt(count))[:, None] * one",
        "zz = second[:, None] * along + 0 * (first / jnp.sqrt(count))[:, None] * one",
        "tests/theory/test_contextual_mixture.py -k in_law_has",
    ),
    Break(
        "the rest of a batch counts",
        "dpt_jax/theory/three_steps.py",
        "counts = (number * batch + jnp.arange(batch) < count).astype(labels.dtype)",
        "counts = (number * batch + jnp.arange(batch) >= 0).astype(labels.dtype)",
        "tests/theory/test_three_steps.py -k gradient_steps",
    ),
    Break(
        "half a line of results is kept",
        "dpt_jax/theory/experiments/base.py",
        "    if whole != text:",
        "    if whole == text:",
        "tests/theory/test_experiments.py -k killed",
    ),
    # the network
    Break(
        "scores scaled",
        "dpt_jax/models/attention.py",
        "scores = jnp.matmul(queries, keys.swapaxes(-1, -2))",
        "scores = jnp.matmul(queries, keys.swapaxes(-1, -2)) / 2.0",
        "tests/models/test_attention.py -k without_a_gradient",
    ),
    Break(
        "padding attended to",
        "dpt_jax/models/network.py",
        "return extend_for_prompt(encoder_input_tokens, self.prompt_length) > 0",
        "return extend_for_prompt(encoder_input_tokens, self.prompt_length) >= 0",
        "tests/models/test_network.py -k padding",
    ),
    Break(
        "the kernels' weights are not normalized",
        "dpt_jax/models/tpu_attention.py",
        "- largest - log_total",
        "- largest",
        "tests/models/test_tpu_attention.py -k causal",
    ),
    Break(
        "masks of keys and queries add up in the kernels",
        "dpt_jax/models/tpu_attention.py",
        "hidden = queries if hidden is None else jnp.minimum(hidden, queries)",
        "hidden = queries if hidden is None else hidden + queries",
        "tests/models/test_tpu_attention.py -k causal",
    ),
    Break(
        "every device computes all heads",
        "dpt_jax/models/attention.py",
        "head = by_head if x.ndim == 4",
        "head = by_head if x.ndim == 5",
        "tests/models/test_tpu_attention.py -k devices",
    ),
    Break(
        "a kernel that fails is taken",
        "dpt_jax/models/attention_support.py",
        'return dataclasses.replace(config, attention="plain")',
        "return config",
        "tests/models/test_attention_support.py -k fails",
    ),
    Break(
        "the decoder sees what comes",
        "dpt_jax/models/stacks.py",
        "causal=cache is None,",
        "causal=False,",
        "tests/models/test_parity_hugging_face.py -k logits_equal",
    ),
    Break(
        "off by one in a position bucket",
        "dpt_jax/models/layers.py",
        "exact = num_buckets // 2\n",
        "exact = num_buckets // 2 - 1\n",
        "tests/models/test_parity_hugging_face.py -k relative_position",
    ),
    Break(
        "tied logits without their scale",
        "dpt_jax/models/stacks.py",
        "logits = embedder.attend(x) / jnp.sqrt(cfg.emb_dim)",
        "logits = embedder.attend(x)",
        "tests/models/test_parity_hugging_face.py -k logits_equal",
    ),
    Break(
        "norm with a mean",
        "dpt_jax/models/layers.py",
        "y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)",
        "y = x * jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + self.epsilon)",
        "tests/models/test_parity_hugging_face.py -k logits_equal",
    ),
    Break(
        "no dropout in the encoder",
        "dpt_jax/models/network.py",
        "return self.encoder(embedded, mask, not enable_dropout, prefix)",
        "return self.encoder(embedded, mask, True, prefix)",
        "tests/models/test_network.py -k dropout",
    ),
    Break(
        "a cache written one place late",
        "dpt_jax/models/stacks.py",
        "jnp.asarray(old).at[:, :, index].set(new[:, :, 0])",
        "jnp.asarray(old).at[:, :, index + 1].set(new[:, :, 0])",
        "tests/models/test_decoding.py -k cached_greedy",
    ),
    Break(
        "decoding goes on after the end",
        "dpt_jax/models/decoding.py",
        "best = jnp.where(state.ended, PAD_ID, best)",
        "best = jnp.where(state.ended, best, best)",
        "tests/models/test_decoding.py -k greedy_equals",
    ),
    Break(
        "length penalty upside down",
        "dpt_jax/models/decoding.py",
        "return ((5.0 + length) / 6.0) ** alpha",
        "return ((5.0 + length) / 6.0) ** -alpha",
        "tests/models/test_decoding.py -k exhaustive",
    ),
    Break(
        "padding scored",
        "dpt_jax/models/decoding.py",
        "jnp.where(targets != PAD_ID, logprobs, 0.0)",
        "logprobs",
        "tests/models/test_decoding.py -k scores_equal",
    ),
    # data
    Break(
        "a swapped label",
        "tasks/benchmark.py",
        'classes=("entailment", "not_entailment")',
        'classes=("not_entailment", "entailment")',
        "tests/tasks/test_text_formats.py tests/tasks/test_fewglue.py",
    ),
    Break(
        "fields in another order",
        "tasks/preprocessors.py",
        '"cb": ("cb", ("hypothesis", "premise")),',
        '"cb": ("cb", ("premise", "hypothesis")),',
        "tests/tasks/test_text_formats.py",
    ),
    Break(
        "MultiRC's F1 over the wrong label",
        "tasks/metrics.py",
        "f1 = f1_score(true, np.where(invalid, 1 - true, said), zero_division=0)",
        "f1 = f1_score(true, np.where(invalid, true, said), zero_division=0)",
        "tests/tasks/test_metrics.py",
    ),
    Break(
        "ReCoRD's first answer instead of the best",
        "tasks/metrics.py",
        "max(token_f1(a, said) for a in known)",
        "token_f1(known[0], said)",
        "tests/tasks/test_metrics.py",
    ),
    Break(
        "a metric's average over the wrong number",
        "tasks/metrics.py",
        "return sum(numbers.values()) / len(numbers)",
        "return sum(numbers.values()) / len(results[task])",
        "tests/tasks/test_metrics.py",
    ),
    Break(
        "a draw that forgets its seed",
        "tasks/few_shot_draw.py",
        "(benchmark, seed, *idx)",
        "(benchmark, *idx)",
        "tests/tasks/test_few_shot.py -k documented_hash",
    ),
    Break(
        "buckets a token short",
        "dpt_jax/data/batching.py",
        "rounded = -(-np.maximum(np.asarray(lengths), 1) // multiple) * multiple",
        "rounded = np.maximum(np.asarray(lengths) // multiple, 1) * multiple",
        "tests/data/test_batching.py",
    ),
    Break(
        "the rest of a bucket is lost",
        "dpt_jax/data/batching.py",
        "        carried = pool[full:]\n",
        "        carried = pool[:0]\n",
        "tests/data/test_batching.py",
    ),
    Break(
        "every epoch draws the same examples",
        "dpt_jax/data/batching.py",
        "first = epoch * int(share)",
        "first = 0",
        "tests/data/test_batching.py",
    ),
    Break(
        "the decoder is shown its target",
        "dpt_jax/data/batches.py",
        '"decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),',
        '"decoder_input_tokens": target,',
        "tests/data/test_batching.py",
    ),
    Break(
        "EOS cut off",
        "dpt_jax/data/examples.py",
        "row[feature] = np.concatenate([tokens[: limit - 1], tokens[-1:]])",
        "row[feature] = tokens[:limit]",
        "tests/data/test_examples.py",
    ),
    Break(
        "a process reads one row too few",
        "dpt_jax/data/reading.py",
        "return slice(process * count // processes, None if last",
        "return slice(process * count // processes + process, None if last",
        "tests/data/test_reading.py -k 'parts_of'",
    ),
    # training
    Break(
        "a key not folded in",
        "dpt_jax/training/step.py",
        "return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)",
        "return jax.random.wrap_key_data(state.rng)",
        "tests/training/test_step.py",
    ),
    Break(
        "microbatches over the wrong axis",
        "dpt_jax/training/step.py",
        "x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)",
        "x.reshape(microbatches, -1, *x.shape[1:])[:1].repeat(microbatches, 0)",
        "tests/training/test_step.py -k microbatches",
    ),
    Break(
        "a sum taken for a mean",
        "dpt_jax/training/step.py",
        "grads = jax.tree.map(lambda g: g / count, grads)",
        "grads = jax.tree.map(lambda g: g, grads)",
        "tests/training/test_step.py tests/training/test_problem.py",
    ),
    Break(
        "z-loss forgotten",
        "dpt_jax/problems/loss.py",
        "loss = loss + z_loss * jnp.square(log_z)",
        "loss = loss + 0.0 * jnp.square(log_z)",
        "tests/training/test_step.py",
    ),
    Break(
        "the frozen part is trained",
        "dpt_jax/training/state.py",
        "{name: value for name, value in flat.items() if (name in chosen) is wanted}",
        "{name: value for name, value in flat.items() if wanted or name not in chosen}",
        "tests/training/test_trainer.py -k bit_for_bit",
    ),
    Break(
        "gradients not clipped",
        "dpt_jax/training/config.py",
        "if self.clip_norm is not None:",
        "if False:",
        "tests/training/test_trainer.py",
    ),
    Break(
        "a rate one step late",
        "dpt_jax/training/run.py",
        '"learning_rate": float(self.learning_rate(step - 1)),',
        '"learning_rate": float(self.learning_rate(step)),',
        "tests/training/test_trainer.py",
    ),
    Break(
        "a tie takes the later step",
        "dpt_jax/training/run.py",
        "or value > self.value:",
        "or value >= self.value:",
        "tests/training/test_trainer.py",
    ),
    Break(
        "patience one too long",
        "dpt_jax/training/run.py",
        "self.best.evaluations_since >= patience",
        "self.best.evaluations_since > patience",
        "tests/training/test_problem.py tests/training/test_trainer.py -k 'early or patience'",
    ),
    Break(
        "a resumed run starts its data again",
        "dpt_jax/training/run.py",
        "self.problem.data.batch(step - 1, rows)",
        "self.problem.data.batch(step - 1 - start, rows)",
        "tests/training/test_problem.py -k same_bits",
    ),
    Break(
        "what is not logged yet is forgotten",
        "dpt_jax/training/run.py",
        '{int(step): m for step, m in progress["unlogged"].items()}',
        "{}",
        "tests/training/test_resume.py -k unbroken",
    ),
    Break(
        "the best checkpoint is pruned",
        "dpt_jax/training/run.py",
        "keep = {step for step in (self.saved_step, self.best.step) if step is not None}",
        "keep = {step for step in (self.saved_step,) if step is not None}",
        "tests/training/test_trainer.py",
    ),
    Break(
        "another seed continues a run",
        "dpt_jax/training/run_folder.py",
        '"data.random_seed": config.random_seed,',
        '"data.random_seed": 0,',
        "tests/training/test_problem.py -k another_problem",
    ),
    Break(
        "a file written in place",
        "dpt_jax/files.py",
        "        yield temporary\n        # mkstemp makes",
        "        yield target\n        # mkstemp makes",
        "tests/test_files.py",
    ),
    Break(
        "an older folder is removed before the new one is there",
        "dpt_jax/files.py",
        "            _swap(temporary, target)",
        "            shutil.rmtree(target); os.replace(temporary, target)",
        "tests/cli/test_export.py -k killed",
    ),
    Break(
        "two runs in one folder",
        "dpt_jax/locks.py",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "tests/training/test_run_folder.py -k one_runs",
    ),
    Break(
        "another learning rate continues a run",
        "dpt_jax/training/recipe.py",
        "    return plain | {",
        "    return plain or {",
        "tests/training/test_run_folder.py -k recipe",
    ),
    Break(
        "another backbone answers",
        "dpt_jax/inference.py",
        "    if prepared.fingerprint != expected:",
        "    if prepared.fingerprint == 0 != expected:",
        "tests/test_inference.py -k another_backbone",
    ),
    Break(
        "a checkpoint in a bucket counts before it is whole",
        "dpt_jax/training/checkpoints.py",
        "(path / _COMMITTED).exists()",
        "path.exists()",
        "tests/training/test_buckets.py -k killed",
    ),
    # devices
    Break(
        "a mesh axis taken for another",
        "dpt_jax/devices/partitioning.py",
        '("embed", "fsdp"),',
        '("embed", "model"),',
        "tests/devices/test_meshes.py",
    ),
    Break(
        "half a program is taken",
        "dpt_jax/devices/compilation_cache.py",
        "if hashlib.sha256(program).digest() != digest:",
        "if not digest:",
        "tests/devices/test_compilation_cache.py -k not_whole",
    ),
    Break(
        "optimizer slots everywhere",
        "dpt_jax/devices/partitioning.py",
        "return sharding if slot.shape == param.shape else everywhere",
        "return sharding if slot.shape != param.shape else everywhere",
        "tests/devices/test_meshes.py -k slots",
    ),
    # evaluation and use
    Break(
        "the least probable candidate",
        "dpt_jax/evaluation/evaluator.py",
        "best = [int(np.argmax(row)) for row in scores]",
        "best = [int(np.argmin(row)) for row in scores]",
        "tests/evaluation/test_rank_classification.py",
    ),
    Break(
        "answers given to other rows",
        "dpt_jax/evaluation/evaluator.py",
        "zip(indices, generated, strict=False)",
        "enumerate(generated[: len(indices)])",
        "tests/evaluation/test_evaluator.py tests/demo tests/cli/test_demo.py",
    ),
    Break(
        "the last step taken for the best",
        "dpt_jax/run_files.py",
        "return max(saved) if best is None else best",
        "return max(saved)",
        "tests/test_inference.py tests/cli/test_export.py",
    ),
    Break(
        "a prompt for each row, one row off",
        "dpt_jax/evaluation/adapted.py",
        "np.stack([np.asarray(a.prompt) for a in adapters])",
        "np.stack([np.asarray(a.prompt) for a in [*adapters[1:], adapters[0]]])",
        "tests/test_inference.py",
    ),
    # weights and prompts in and out
    Break(
        "an adapter's other half",
        "dpt_jax/interop/peft_adapter.py",
        "return array[:length], {TENSOR: array}, config",
        "return array[-length:], {TENSOR: array}, config",
        "tests/interop/test_peft_adapters.py",
    ),
    Break(
        "a kernel that is not transposed",
        "dpt_jax/tensors.py",
        "source=lambda: self.source().T,",
        "source=lambda: self.source().reshape(self.shape[::-1]),",
        "tests/interop/test_family_parity.py",
    ),
    Break(
        "a checksum of names alone",
        "dpt_jax/tensors.py",
        "+ _head(tensor).tobytes(), crc)",
        ", crc)",
        "tests/training/test_backbone.py tests/training/test_resume.py -k 'backbone'",
    ),
    # the fast recipe
    Break(
        "steps not relative",
        "dpt_jax/training/optimizers.py",
        "moved = matrix - rate * norm / min(matrix.shape) ** 0.5 * direction",
        "moved = matrix - rate / min(matrix.shape) ** 0.5 * direction",
        "tests/training/test_optimizers.py -k exact_polar",
    ),
    Break(
        "factors too large",
        "dpt_jax/prompts/measured.py",
        "(norm**2 / (bottleneck * width)) ** 0.25",
        "(norm**2 / width) ** 0.25",
        "tests/prompts/test_measured.py -k start_at_the_norm",
    ),
    Break(
        "padding measured",
        "dpt_jax/models/residual_norm.py",
        "axis=-1)[seen].mean()",
        "axis=-1).mean()",
        "tests/models/test_residual_norm.py -k hugging",
    ),
    Break(
        "balance across buckets",
        "dpt_jax/data/batching.py",
        "groups = self.targets * (self.bucket_ids.max() + 1) + self.bucket_ids",
        "groups = self.bucket_ids",
        "tests/data/test_batching.py -k balanced",
    ),
    # what results show
    Break(
        "claims unpaired",
        "dpt_jax/analysis/claims.py",
        "paired = [one[seed] - other[seed] for seed in one if seed in other]",
        "paired = [a - b for a, b in zip(sorted(one.values()), sorted(other.values()))]",
        "tests/analysis/test_tables.py -k claim",
    ),
    # populations, plans and numbers
    Break(
        "a member that had no batch is updated",
        "dpt_jax/sweeps/population_step.py",
        "jnp.where(on, new, old)",
        "jnp.where(on, new, new)",
        "tests/sweeps/test_population.py -k without_a_batch",
    ),
    Break(
        "a layer's folded prompt is another layer's",
        "dpt_jax/problems/folded.py",
        "for i, one in enumerate(prompt)",
        "for i, one in enumerate(prompt[::-1])",
        "tests/problems/test_image_runs.py -k folded_parameters",
    ),
    Break(
        "attention to the first token counted as attention to a prefix",
        "dpt_jax/evaluation/t5_attention.py",
        "jnp.eye(rest, 1 + rest, 1)",
        "jnp.eye(rest, 1 + rest, 0)",
        "tests/models/test_parity_hugging_face.py -k attention_weights",
    ),
    Break(
        "a prefix of a population without a gradient",
        "dpt_jax/problems/folded.py",
        'folded["prefix"] = fold_prefix(model, merge_params(trained, frozen))',
        'folded["prefix"] = fold_prefix(model, frozen | jax.lax.stop_gradient(trained))',
        "tests/sweeps/test_population.py -k folded_shape",
    ),
    Break(
        "attention of padding counted",
        "dpt_jax/evaluation/prefix_attention.py",
        'counted = (source if stack == "encoder" else targets > 0)',
        'counted = (source if stack == "encoder" else targets >= 0)',
        "tests/evaluation/test_prefix_attention.py",
    ),
    Break(
        "a held out row in the draw",
        "tasks/few_shot_draw.py",
        "return sorted(list(idx) for idx in rows[left:])",
        "return sorted(list(idx) for idx in rows[left - 1 :])",
        "tests/tasks/test_few_shot.py -k shares",
    ),
    Break(
        "the worst learning rate chosen",
        "dpt_jax/sweeps/chosen.py",
        "(-means[value], value)",
        "(means[value], value)",
        "tests/sweeps/test_chosen.py",
    ),
    Break(
        "members with one member's dropout",
        "dpt_jax/sweeps/population_step.py",
        "jax.random.key_data(dropout_key(state)) for state in states",
        "jax.random.key_data(dropout_key(states[0])) for state in states",
        "tests/sweeps/test_population.py -k dropout_draws",
    ),
    Break(
        "a member's row of another",
        "dpt_jax/sweeps/population.py",
        "rows[i], active[i] = len(running) * width + chosen.index(i), True",
        "rows[i], active[i] = len(running) * width, True",
        "tests/sweeps/test_population.py",
    ),
    Break(
        "bytes at the rate of products",
        "dpt_jax/planning/roofline.py",
        "memory = costs.bytes / chip.hbm_bytes_per_second",
        "memory = costs.bytes / chip.flops_per_second",
        "tests/planning/test_tpus.py",
    ),
    Break(
        "entropy of squares",
        "dpt_jax/analysis/spectrum.py",
        "shares = self.singular_values / total",
        "shares = self.singular_values**2 / (self.singular_values**2).sum()",
        "tests/analysis/test_spectrum.py",
    ),
    Break(
        "a direction too many",
        "dpt_jax/analysis/truncation.py",
        "missed = squares[rank:].sum()",
        "missed = squares[rank + 1 :].sum()",
        "tests/analysis/test_truncation.py",
    ),
    # the front door
    Break(
        "the recipe's prompt beside a prefix",
        "dpt_jax/cli/short_flags.py",
        'bindings.append("PROMPT = None")',
        'bindings.append("BOTTLENECK = 10")',
        "tests/cli/test_short_flags.py -k long_form",
    ),
    Break(
        "a bare text for any value",
        "dpt_jax/gin_utils/flags.py",
        "    return False\n\n\ndef _parameters",
        "    return True\n\n\ndef _parameters",
        "tests/cli/test_short_flags.py -k bare",
    ),
    Break(
        "all rows with the first prompt",
        "dpt_jax/prompted_t5/requests.py",
        "return [loaded[name] for name in each]",
        "return [loaded[each[0]] for name in each]",
        "tests/test_prompted_t5.py -k several_prompts",
    ),
    Break(
        "a loaded prefix starts anew",
        "dpt_jax/interop/prefix_file.py",
        "return jnp.asarray(array, dtype)",
        "return jnp.zeros(shape, dtype)",
        "tests/test_prompted_t5.py -k prefix_is_trained",
    ),
]


def copied(folder: pathlib.Path) -> None:
    """Copies the tree, with the mapped folders inside the package, so that the copy is whole."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for mapped in ("tasks", "gin_configs"):
        (folder / "dpt_jax" / mapped).symlink_to(folder / mapped)
    shared = ROOT.parent / "shared"
    if shared.exists():
        (folder.parent / "shared").symlink_to(shared.resolve())


def run(one: Break, folder: pathlib.Path) -> tuple[bool, str]:
    """Whether the break's tests fail with it, and the last lines of what pytest said."""
    tree = folder / "tree"
    tree.mkdir()
    copied(tree)
    path = tree / one.file
    text = path.read_text()
    if text.count(one.right) != 1:
        return False, f"{one.file} holds the line {text.count(one.right)} times, not once"
    path.write_text(text.replace(one.right, one.wrong))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *shlex.split(one.tests)], cwd=tree, capture_output=True, text=True, timeout=900
    )
    said = "\n".join(done.stdout.splitlines()[-4:])
    # 1 is a failed test, 2 one that could not be collected; 5 means that nothing was run.
    return done.returncode in (1, 2), said


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="breaks whose name has a word")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    chosen = [b for b in BREAKS if not args.only or any(word in b.name for word in args.only)]
    # What is compiled is the same from break to break, but for the broken program.
    programs = tempfile.TemporaryDirectory()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs.name)

    def timed(one: Break) -> tuple[Break, bool, str, float]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            return one, *run(one, pathlib.Path(folder)), time.monotonic() - began

    unnoticed = 0
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        for one, noticed, said, seconds in pool.map(timed, chosen):
            verdict = "noticed" if noticed else "NOT NOTICED"
            print(f"{verdict:<12}{seconds:5.0f} s  {one.name} ({one.file})", flush=True)
            if not noticed:
                unnoticed += 1
                print("    " + said.replace("\n", "\n    "), flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} breaks are noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
