"""Rank classification: the scores, the choice, and how rows and candidates are batched."""

import json
import math

import jax
import numpy as np
import pytest

from dpt_jax import inference
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.evaluation import rank_classification
from dpt_jax.interop import load_backbone
from dpt_jax.models import Transformer
from dpt_jax.problems import text
from dpt_jax.prompts import VanillaPrompt
from tests.support import runs

MODULE = "tests.support.ranked_tasks"


def tokens(text):
    """The byte vocabulary's ids, with the end token."""
    return [b + 3 for b in text.encode()] + [1]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("limit", [200, 100_000])
@pytest.mark.parametrize("num_buckets", [1, 2, 4, 9])
def test_batches_hold_every_row_once_with_all_its_candidates_in_few_shapes(
    shards, limit, num_buckets
):
    rng = np.random.default_rng(0)
    inputs = [rng.integers(2, 99, n) for n in rng.integers(1, 60, 100)]
    candidates = [
        [rng.integers(2, 99, n) for n in rng.integers(1, 20, count)]
        for count in rng.choice([2, 3, 11, 17], 100, p=[0.5, 0.3, 0.15, 0.05])
    ]
    seen, shapes = [], set()
    for indices, source, target in rank_classification.candidate_batches(
        inputs,
        candidates,
        batch_size=8,
        num_buckets=num_buckets,
        shards=shards,
        max_decoder_tokens=limit,
    ):
        rows, count, width = target.shape
        assert len(source) == rows and len(indices) <= rows <= 8 and rows % shards == 0
        assert rows == shards or rows // shards * count * width <= limit
        for place, i in enumerate(indices):
            np.testing.assert_array_equal(source[place][source[place] > 0], inputs[i])
            found = [row[row > 0].tolist() for row in target[place]]
            expected = [c.tolist() for c in candidates[i]]
            assert found == expected + [[]] * (count - len(expected))
        assert not target[len(indices) :].any()
        seen += indices.tolist()
        shapes.add((source.shape[1], count, width))
    assert sorted(seen) == list(range(100))
    assert len(shapes) <= num_buckets
    assert len({count for _, count, _ in shapes}) == min(4, max(1, num_buckets // 2))


def full_forward_scores(config, params, rows, prompt):
    """Each candidate's log-probability, from the logits of a plain forward pass."""
    model = Transformer(config, VanillaPrompt(*prompt.shape))
    pairs = [(tokens(row["inputs"]), tokens(c)) for row in rows for c in row["candidates"]]
    source = np.zeros((len(pairs), 48), np.int32)
    target = np.zeros((len(pairs), 24), np.int32)
    for i, (x, y) in enumerate(pairs):
        source[i, : len(x)], target[i, : len(y)] = x, y
    shifted = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    variables = {"params": params | {"prompt": {"prompt": prompt}}}
    logits = np.asarray(jax.jit(model.apply)(variables, source, shifted, target), np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums = (
        sum(row[j, t] for j, t in enumerate(y)) for row, (_, y) in zip(logprobs, pairs, strict=True)
    )
    return [[next(sums) for _ in row["candidates"]] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 3])
def test_scores_are_the_sums_of_a_full_forward_pass(backbone, tmp_path, batch_size):
    prompt = np.random.default_rng(2).normal(size=(4, runs.WIDTH)).astype(np.float32)
    config = runs.run_config(
        tmp_path,
        backbone,
        mixture_or_task_name="ranked_varied",
        mixture_or_task_module=MODULE,
        scoring="rank",
        batch_size=batch_size,
    )
    [result] = inference.evaluate(text.prepare(config), prompt)
    from tests.support import ranked_tasks

    rows = list(ranked_tasks.rows("validation", ranked_tasks.varied))
    expected = full_forward_scores(runs.T5, load_backbone(backbone)[1], rows, prompt)
    right = 0
    for record, row, scores in zip(result.predictions, rows, expected, strict=True):
        assert record["idx"] == row["idx"] and record["candidates"] == row["candidates"]
        np.testing.assert_allclose(record["scores"], scores, rtol=1e-4, atol=1e-3)
        assert record["output"] == row["candidates"][int(np.argmax(scores))]
        # The task's own postprocessor has seen the text.
        assert record["prediction"] == ranked_tasks.ANSWERS.index(record["output"])
        right += record["output"] == row["targets"]
    assert result.metrics == {"accuracy": right / 20}


@pytest.mark.slow
@pytest.mark.interop
def test_scores_are_hugging_faces_log_likelihoods(tmp_path):
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=264,
            d_model=16,
            d_kv=4,
            d_ff=32,
            num_layers=1,
            num_heads=8,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        model.shared.weight.mul_(0.3)
    model.save_pretrained(tmp_path / "hf")
    sizes, _ = load_backbone(tmp_path / "hf")
    config = runs.run_config(
        tmp_path / "run",
        tmp_path / "hf",
        model=sizes,
        prompt=None,
        mixture_or_task_name="ranked_varied",
        mixture_or_task_module=MODULE,
        scoring="rank",
    )
    [result] = inference.evaluate(text.prepare(config), None)
    for record in result.predictions[:7]:
        for answer, score in zip(record["candidates"], record["scores"], strict=True):
            labels = torch.tensor([tokens(answer)])
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([tokens(record["inputs"])]), labels=labels).loss
            assert score == pytest.approx(-float(loss) * labels.numel(), rel=1e-4)


@pytest.mark.slow
def test_a_run_and_dpt_evaluate_score_by_rank(backbone, tmp_path, capsys):
    run = tmp_path / "run"
    argv = runs.arguments(
        run,
        backbone,
        MIXTURE_OR_TASK_NAME="ranked_mixture",
        MIXTURE_OR_TASK_MODULE=MODULE,
        SCORING="rank",
        TRAIN_STEPS=2,
        EVAL_PERIOD=2,
    )
    assert main(argv) == 0
    logged = {r["task"]: r["accuracy"] for r in runs.metrics(run) if r["split"] == "validation"}
    assert set(logged) == {"ranked_two", "ranked_varied"}
    for task, accuracy in logged.items():
        lines = (run / "predictions" / f"{task}_2.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["idx"] for record in records] == list(range(100, 120))
        for record in records:
            best = max(range(len(record["scores"])), key=record["scores"].__getitem__)
            assert record["output"] == record["candidates"][best]
            assert all(score < 0 and math.isfinite(score) for score in record["scores"])
        assert accuracy == sum(r["prediction"] == r["target"] for r in records) / 20

    def evaluate(*more):
        capsys.readouterr()
        status = main(["evaluate", f"--model_dir={run}", f"--predictions={tmp_path}", *more])
        out = capsys.readouterr().out
        first = json.loads((tmp_path / "ranked_two_2.jsonl").read_text().splitlines()[0])
        return status, json.loads(out)["metrics"], first

    # The run's own way, unless another is asked for.
    status, metrics, first = evaluate()
    assert status == 0 and "scores" in first
    assert {task: m["accuracy"] for task, m in metrics.items()} == logged
    status, metrics, first = evaluate("--scoring=generation")
    assert status == 0 and set(metrics) == set(logged) and "scores" not in first
    assert main(["evaluate", f"--model_dir={run}", "--scoring=ranks"]) == 2
    assert "--scoring is 'ranks'; it takes generation or rank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "module", "message"),
    [
        ("toy_x", "tests.support.toy_tasks", "'toy_x' cannot be scored by rank: its rows bring no"),
        ("ranked_lacking", MODULE, "'ranked_lacking' cannot be scored by rank: its row 3 bring"),
    ],
)
def test_rows_without_candidates_are_refused_before_the_run_begins(
    backbone, tmp_path, task, module, message
):
    config = runs.run_config(
        tmp_path / "run",
        backbone,
        mixture_or_task_name=task,
        mixture_or_task_module=module,
        scoring="rank",
    )
    with pytest.raises(InputError) as error:
        text.train(config)
    assert message in str(error.value)
    assert "--gin.SCORING" in str(error.value) and "--scoring=generation" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_scoring_is_refused(backbone, tmp_path):
    with pytest.raises(InputError, match="SCORING is 'ranks'; it must be one of generation, rank"):
        runs.run_config(tmp_path, backbone, scoring="ranks")
