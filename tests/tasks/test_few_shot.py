"""Few-shot draws: the same rows everywhere, and only in training."""

import hashlib

import pytest

from tests.tasks import raw_rows

seqio = pytest.importorskip("seqio", reason="SeqIO is not installed")

import dpt_jax.tasks as tasks  # noqa: E402


def ids(task: str, split: str = "train") -> list[list[int]]:
    dataset = seqio.TaskRegistry.get(task).get_dataset(None, split=split, shuffle=False)
    return sorted(row["idx"].tolist() for row in dataset.as_numpy_iterator())


def test_draws_of_8_16_and_32_are_registered_for_every_task():
    names = seqio.TaskRegistry.names()
    for task in tasks.TASKS:
        for k in (8, 16, 32):
            for seed in range(3):
                assert f"{task}_k{k}_s{seed}" in names


@pytest.mark.slow
def test_k_training_rows_are_listed_by_id_and_validation_is_complete(jsonl):
    for task, k in (("dpt_rte", 8), ("dpt_multirc", 5), ("dpt_record", 4), ("dpt_wsc", 2)):
        name = tasks.few_shot(task, k, 7)
        assert name == f"{task}_k{k}_s7"
        drawn = tasks.few_shot_ids(name)
        assert ids(name) == drawn == sorted(drawn)
        assert len(drawn) == k
        all_ids = ids(task)
        assert all(idx in all_ids for idx in drawn)
        assert ids(name, "validation") == ids(task, "validation")
        assert seqio.TaskRegistry.get(name).num_input_examples("train") == k


def test_the_draw_is_the_documented_hash_and_larger_draws_contain_smaller(jsonl):
    def order(i):
        return hashlib.sha256(f"rte 1 {i}".encode()).digest()

    expected = sorted(range(30), key=order)
    for k in (8, 16):
        assert tasks.few_shot_ids(f"dpt_rte_k{k}_s1") == [[i] for i in sorted(expected[:k])]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_file(
    jsonl, tmp_path, monkeypatch
):
    draws = [tasks.few_shot_ids(f"dpt_rte_k8_s{seed}") for seed in range(3)]
    assert draws[0] != draws[1] != draws[2] != draws[0]
    rows = raw_rows.lines("rte", "train")
    raw_rows.write_file(tmp_path / "RTE" / "train.jsonl", rows[::-1])
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(tmp_path))
    assert [tasks.few_shot_ids(f"dpt_rte_k8_s{seed}") for seed in range(3)] == draws


@pytest.mark.slow
def test_both_text_formats_and_both_sources_draw_the_same_rows(tfds_dir, raw, monkeypatch):
    from_tfds = ids("dpt_rte_k8_s0")
    monkeypatch.setenv("DPT_SUPERGLUE_DIR", str(raw))
    assert ids("dpt_rte_k8_s0") == ids("dpt_rte_digits_k8_s0") == from_tfds
    assert tasks.few_shot_ids("dpt_rte_digits_k8_s0") == from_tfds


@pytest.mark.slow
def test_a_draw_is_not_balanced(jsonl):
    labels = {idx[0] % 2 for idx in tasks.few_shot_ids(tasks.few_shot("dpt_rte", 1, 3))}
    assert len(labels) == 1
    # Over many draws a balanced one is not the rule: 4 of 8 in C(8, 4) / 2^8 = 27 % of them.
    names = [tasks.few_shot("dpt_rte", 8, seed) for seed in range(40)]
    even = sum(sum(i % 2 for (i,) in tasks.few_shot_ids(name)) == 4 for name in names)
    assert 0 < even < 30


@pytest.mark.slow
def test_a_record_query_gives_one_example_with_its_first_answer(jsonl):
    name = tasks.few_shot("dpt_record", 6, 0)
    rows = seqio.TaskRegistry.get(name).get_dataset(None, split="train", shuffle=False)
    for row in rows.as_numpy_iterator():
        assert row["targets_pretokenized"] == row["answers"][0]
    assert len(ids(name)) == 6 < len(ids("dpt_record")) == 9


@pytest.mark.slow
def test_more_shots_than_rows_are_refused(jsonl):
    name = tasks.few_shot("dpt_wsc", 4, 0)
    with pytest.raises(tasks.TaskError, match="k = 4 examples of wsc .* has only 3"):
        seqio.TaskRegistry.get(name).get_dataset(None, split="train")
    with pytest.raises(tasks.TaskError, match="has only 3"):
        tasks.few_shot_ids(name)


@pytest.mark.parametrize("k, seed", [(0, 0), (-1, 0), (8, -1), (8.0, 0), (True, 0)])
def test_impossible_draws_are_refused(k, seed):
    with pytest.raises(tasks.TaskError, match="it must be an integer from"):
        tasks.few_shot("dpt_rte", k, seed)


def test_only_the_tasks_themselves_have_draws():
    with pytest.raises(tasks.TaskError, match="'dpt_superglue', but of dpt_boolq"):
        tasks.few_shot("dpt_superglue", 8, 0)
    assert tasks.few_shot_ids("dpt_rte") is None
    assert tasks.few_shot_ids("no_such_task") is None


def test_any_draw_can_be_registered_by_its_name():
    for name in ("dpt_rte_k3_s11", "dpt_rte_digits_k3_s11"):
        tasks.register_by_name(name)
        assert name in seqio.TaskRegistry.names()
    for name in ("dpt_rte_k03_s1", "dpt_rte_k3", "other_k3_s1", "dpt_rte"):
        before = set(seqio.TaskRegistry.names())
        tasks.register_by_name(name)
        assert set(seqio.TaskRegistry.names()) == before


@pytest.mark.slow
def test_shares_are_the_first_rows_of_the_same_order_and_the_last_tenth_is_held_out(jsonl):
    def order(i):
        return hashlib.sha256(f"rte 1 {i}".encode()).digest()

    expected = [[i] for i in sorted(range(30), key=order)]
    for percent, count in ((1, 1), (10, 3), (50, 14), (100, 27)):
        name = f"dpt_rte_p{percent}_s1"
        tasks.register_by_name(name)
        assert tasks.few_shot_ids(name) == sorted(expected[:count])
        source = seqio.TaskRegistry.get(name)
        assert [source.num_input_examples(split) for split in ("train", "heldout")] == [count, 3]
    assert ids("dpt_rte_p10_s1") == sorted(expected[:3])
    assert ids("dpt_rte_p10_s1", "heldout") == sorted(expected[27:])
    assert ids("dpt_rte_k8_s1", "heldout") == sorted(expected[27:])
    assert "heldout" not in seqio.TaskRegistry.get("dpt_rte").splits


@pytest.mark.parametrize(
    ("percent", "message"), [(0, "few-shot percent is 0"), (101, "101 %, more than all")]
)
def test_a_share_that_cannot_be_is_said(percent, message):
    with pytest.raises(tasks.TaskError, match=message):
        tasks.share("dpt_rte", percent, 0)


def test_rows_that_are_drawn_are_not_held_out(jsonl):
    with pytest.raises(tasks.TaskError, match="30 training rows, too few to hold a tenth"):
        ids(tasks.few_shot("dpt_rte", 28, 0), "heldout")
