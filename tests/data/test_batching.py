"""Which examples go into which batch: every example once, few padded tokens, no surprises."""

import itertools

import numpy as np
import pytest

from dpt_jax.data.batches import TrainData, evaluation_batches
from dpt_jax.data.batching import (
    Sampler,
    Schedule,
    choose_buckets,
    plan_batches,
    spread_evenly,
)
from dpt_jax.data.examples import TaskExamples


def padded_tokens(lengths, buckets):
    return sum(min(b for b in buckets if b >= n) for n in lengths)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_buckets_waste_as_little_as_the_best_of_all_choices(seed, count):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, size=rng.integers(1, 25)).tolist()
    multiple = int(rng.choice([1, 4, 8]))
    sizes = sorted({-(-n // multiple) * multiple for n in lengths})
    best = min(
        padded_tokens(lengths, (*chosen, sizes[-1]))
        for k in range(min(count, len(sizes)))
        for chosen in itertools.combinations(sizes[:-1], k)
    )
    buckets = choose_buckets(lengths, count, multiple)
    assert len(buckets) <= count and list(buckets) == sorted(set(buckets))
    assert all(b % multiple == 0 for b in buckets)
    assert padded_tokens(lengths, buckets) == best


def test_no_bucket_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        choose_buckets([3], 0)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_hold_every_example_once_where_it_fits(batch_size):
    rng = np.random.default_rng(batch_size)
    ids = rng.integers(0, 4, size=61)
    order = rng.permutation(61)
    batches = plan_batches(ids, order, batch_size)
    assert sorted(np.concatenate([rows for _, rows in batches])) == list(range(61))
    assert all((ids[rows] <= bucket).all() for bucket, rows in batches)
    # All full but one: no step works for a handful of rows.
    assert len(batches) == -(-61 // batch_size)
    assert sum(len(rows) < batch_size for _, rows in batches) <= 1


def test_an_epoch_of_one_task_is_each_example_once_in_another_order_each_time():
    sampler = Sampler((23,), (1.0,), seed=5)
    epochs = [sampler.epoch(e) for e in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(23))
    assert len({tuple(order) for order in epochs}) == 3
    assert tuple(Sampler((23,), (1.0,), seed=6).epoch(0)) != tuple(epochs[0])
    assert tuple(Sampler((23,), (1.0,), seed=5).epoch(2)) == tuple(epochs[2])


@pytest.mark.parametrize(
    ("sizes", "rates"), [((10, 30), (1.0, 1.0)), ((7, 50, 20), (5.0, 1.0, 2.5)), ((9, 4), (1, 0))]
)
def test_a_mixture_keeps_its_rates_and_uses_up_each_task_before_repeating(sizes, rates):
    sampler = Sampler(sizes, rates, seed=1)
    total, epochs = sum(sizes), 7
    first = np.cumsum([0, *sizes])
    seen = np.zeros(total, int)
    for epoch in range(epochs):
        order = sampler.epoch(epoch)
        assert len(order) == total
        drawn = np.bincount(np.searchsorted(first, order, side="right") - 1, minlength=len(sizes))
        np.testing.assert_allclose(drawn, np.asarray(rates) / sum(rates) * total, atol=1)
        np.add.at(seen, order, 1)
        for start, size in zip(first, sizes, strict=False):
            # However far it has come, no example is more than one visit ahead of another.
            visits = seen[start : start + size]
            assert visits.max() - visits.min() <= 1


def test_every_epoch_has_the_same_number_of_steps():
    rng = np.random.default_rng(0)
    schedule = Schedule(Sampler((33, 18), (1.0, 3.0), 2), rng.integers(0, 3, 51), 8)
    assert {len(schedule.epoch(e)) for e in range(20)} == {schedule.steps_per_epoch} == {7}


def train_data(seed=0):
    rng = np.random.default_rng(9)
    tasks = [
        TaskExamples(
            name,
            [rng.integers(3, 99, rng.integers(1, 40)).astype(np.int32) for _ in range(count)],
            [rng.integers(3, 99, rng.integers(1, 6)).astype(np.int32) for _ in range(count)],
            [],
        )
        for name, count in (("one", 21), ("two", 14))
    ]
    return TrainData.create(tasks, [1.0, 2.0], 4, seed, 3)


@pytest.mark.parametrize("first", [1, 8, 9, 20])
def test_starting_late_gives_the_batches_that_follow(first):
    data = train_data()
    every = [data.batch(step) for step in range(first + 12)]
    fresh = train_data()
    for step in range(first, first + 12):
        for name, array in every[step].items():
            np.testing.assert_array_equal(fresh.batch(step)[name], array)


def test_batches_show_the_decoder_each_target_one_position_late():
    data = train_data()
    for step in range(9):
        batch = data.batch(step)
        target, shifted = batch["decoder_target_tokens"], batch["decoder_input_tokens"]
        assert batch["encoder_input_tokens"].shape[1] in data.buckets
        assert (shifted[:, 0] == 0).all()
        np.testing.assert_array_equal(shifted[:, 1:], target[:, :-1])


def test_evaluation_reads_every_example_once_unchanged():
    rng = np.random.default_rng(4)
    inputs = [rng.integers(3, 99, rng.integers(1, 40)) for _ in range(29)]
    found = {}
    for indices, tokens in evaluation_batches(inputs, 8, 3):
        assert len(tokens) == 8
        for i, row in zip(indices, tokens, strict=False):
            assert i not in found
            found[i] = row[row > 0]
    assert len(found) == 29
    assert all((found[i] == inputs[i]).all() for i in found)


def test_evaluation_pads_as_little_as_sorted_rows_can():
    inputs = [np.ones(n, np.int32) for n in (9, 30, 1, 17, 2, 25, 8)]
    plan = evaluation_batches(inputs, 3, 8)
    assert [(list(indices), tokens.shape) for indices, tokens in plan] == [
        ([1, 5, 3], (3, 32)),
        ([0, 6, 4], (3, 16)),
        ([2], (3, 8)),
    ]
    assert {tokens.shape for _, tokens in evaluation_batches(inputs, 3, 1)} == {(3, 32)}


def test_evenly_spread_groups_have_their_share_of_every_stretch():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([0, 1, 2], [12, 30, 78]))
    order = rng.permutation(120)
    spread = spread_evenly(order, groups, [3])
    assert sorted(spread) == list(range(120))
    for length in (5, 16, 50):
        for start in range(120 - length):
            counts = np.bincount(groups[spread[start : start + length]], minlength=3)
            shares = length * np.asarray([12, 30, 78]) / 120
            # A stretch may begin and end within the spacing of a group's members.
            assert (abs(counts - shares) < 2).all()
    for group in range(3):
        kept = [i for i in spread if groups[i] == group]
        assert kept == [i for i in order if groups[i] == group]
    assert spread.tolist() != spread_evenly(order, groups, [4]).tolist()


def labelled(targets, seed=0):
    """Examples of two lengths whose targets are these numbers."""
    rng = np.random.default_rng(seed)
    inputs = [np.full(n, 5, np.int32) for n in rng.choice([6, 14], len(targets))]
    return TaskExamples("task", inputs, [np.asarray([t, 1], np.int32) for t in targets], [])


def test_balanced_batches_have_the_targets_shares_and_every_example_once():
    targets = np.random.default_rng(1).permutation(np.repeat([10, 11, 12], 64))
    data = TrainData.create([labelled(targets)], [1.0], 12, 0, 2, balanced=True)
    assert data.describe().endswith("batches balanced by 3 targets")
    batches = data.schedule.epoch(2)
    assert sorted(i for _, rows in batches for i in rows) == list(range(192))
    lengths = data.schedule.bucket_ids
    whole = [rows for bucket, rows in batches if set(lengths[rows]) == {bucket} and len(rows) == 12]
    assert len(whole) > 12
    for rows in whole:
        of_bucket = targets[lengths == lengths[rows[0]]]
        for target in (10, 11, 12):
            share = 12 * np.mean(of_bucket == target)
            assert abs(np.sum(targets[rows] == target) - share) < 2
    random = TrainData.create([labelled(targets)], [1.0], 12, 0, 2).schedule.epoch(2)
    worst = max(np.bincount(targets[rows] - 10, minlength=3).max() for _, rows in random)
    assert worst > 6


def test_targets_that_occur_once_are_not_balanced_and_it_is_said():
    plain = TrainData.create([labelled(range(3, 43))], [1.0], 4, 0, 2)
    data = TrainData.create([labelled(range(3, 43))], [1.0], 4, 0, 2, balanced=True)
    assert data.describe() == f"{plain.describe()}, batches not balanced: most targets occur once"
    for step in range(12):
        for name, array in plain.batch(step).items():
            np.testing.assert_array_equal(data.batch(step)[name], array)
