"""Which points of a sweep become one job, to be trained together."""

import pytest

from dpt_jax.sweeps import Sweep, jobs

GRID = {
    "RANDOM_SEED": [0, 1],
    "LEARNING_RATE_PEAK": [0.1, 0.3],
    "BOTTLENECK": [2, 4],
    "PROMPT_LENGTH": [10, 20],
}


def sizes(work):
    return sorted(len(job) for job in work)


def test_points_with_the_same_programs_are_one_job():
    points = Sweep("one", gin_files=["runs/demo.gin"], grid=GRID).expand()
    work = jobs.group(points)
    assert sizes(work) == [8, 8]
    assert {point.name for job in work for point in job} == {point.name for point in points}
    for job in work:
        assert len({point.axes["PROMPT_LENGTH"] for point in job}) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpt_rte_k{k}_s{seed}", [2, 2]),
        ("demo_questions_p{k}_s{seed}", [2, 2]),
        ("task_{k}_{seed}", [1, 1, 1, 1]),
    ],
)
def test_draws_of_one_amount_are_one_job(name, expected):
    sweep = Sweep(
        "one", bindings={"MIXTURE_OR_TASK_NAME": name}, grid={"k": [8, 16], "seed": [0, 1]}
    )
    assert sizes(jobs.group(sweep.expand())) == expected


@pytest.mark.parametrize(
    ("side_by_side", "expected"), [(2, [8, 8]), (3, [4, 4, 8]), (99, [1] * 16)]
)
def test_jobs_are_halved_until_every_process_has_one(side_by_side, expected):
    points = Sweep("one", grid=GRID).expand()
    assert sizes(jobs.group(points, side_by_side)) == expected


def test_no_points_are_no_jobs():
    assert jobs.group([], 2) == []
