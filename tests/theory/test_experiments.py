"""How experiments are run: to the same bits, from where a kill left them, and what they refuse."""

import dataclasses
import json
import math

import numpy as np
import pytest

from dpt_jax.analysis.tables import Table
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.theory.experiments import EXPERIMENTS, base, statistics

NAME = "debiasing"
CHANGES = ("repeats=2", "count=8", "dim=3", "length=20", "ratios=(1.0,)", "correlations=(0.6,)")


@dataclasses.dataclass(frozen=True)
class Settings:
    places: tuple[int, ...] = (0, 1, 2, 3)
    rate: float = 0.5
    seed: int = 0


def counted(ran, dies_at=None):
    """An experiment that notes which cells ran, and may be killed over one."""

    def run(settings, cell):
        ran.append(cell["place"])
        if cell["place"] == dies_at:
            raise KeyboardInterrupt
        return {"values": np.asarray([cell["place"] / 3, settings.rate, math.nan])}

    def figure(rows):
        import matplotlib.figure

        return matplotlib.figure.Figure(figsize=(1, 1))

    return base.Experiment(
        "counted",
        "",
        Settings(),
        {"rate": 2.0},
        lambda settings: base.grid(place=settings.places),
        run,
        lambda rows: Table(["place"], [[str(row["place"])] for row in rows], 1, "", []),
        figure,
    )


def test_a_killed_experiment_continues_to_the_same_bytes(tmp_path):
    ran = []
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    base.run(counted(ran), Settings(), whole)
    expected = (whole / base.RESULTS).read_bytes()
    assert ran == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        base.run(counted(ran, dies_at=2), Settings(), killed)
    # Killed over writing a line, too.
    with open(killed / base.RESULTS, "a") as file:
        file.write(expected.decode().splitlines()[2][:9])
    ran.clear()
    table = base.run(counted(ran), Settings(), killed)
    assert ran == [2, 3]
    assert (killed / base.RESULTS).read_bytes() == expected
    assert [row[0] for row in table.rows] == ["0", "1", "2", "3"]
    assert (killed / "table.md").read_text() == table.markdown()
    assert (killed / "figure.png").stat().st_size > 0
    assert json.loads(expected.splitlines()[1])["values"] == [1 / 3, 0.5, None]
    ran.clear()
    base.run(counted(ran), Settings(), killed)
    assert ran == []


def test_results_of_other_settings_are_not_mixed(tmp_path):
    base.run(counted([]), Settings(), tmp_path)
    with pytest.raises(InputError, match="results with rate = 0.5, and 0.7 is asked for.*--output"):
        base.run(counted([]), Settings(rate=0.7), tmp_path)


def test_settings_are_changed_by_name_and_checked():
    experiment = counted([])
    changed = experiment.make_settings(False, ["places=(4,)", "rate=1", "seed=3"])
    assert changed == Settings((4,), 1.0, 3)
    assert experiment.make_settings(True, []) == Settings(rate=2.0)
    assert experiment.make_settings(False, ["places=7"]).places == (7,)
    with pytest.raises(InputError, match="'rat=1'; counted has places, rate, seed.*Nearest: rate"):
        experiment.make_settings(False, ["rat=1"])
    with pytest.raises(InputError, match="seed=x is no int; the default is 0"):
        experiment.make_settings(False, ["seed=x"])


def test_slopes_and_intervals():
    sizes = [10, 20, 40, 80]
    rng = np.random.default_rng(0)
    values = [3 * n**-0.5 * rng.lognormal(0, 0.05, 200) for n in sizes]
    low, fitted, high = statistics.slope(sizes, values)
    assert low < fitted < high
    assert abs(fitted + 0.5) < 0.02 and high - low < 0.04
    low, mean, high = statistics.interval([1.0, 2.0, 3.0])
    # Student's t with two degrees of freedom: 4.3027 / √3.
    assert np.isclose(mean, 2) and np.isclose(high - 2, 2.4842, atol=1e-3) and low + high == 4


@pytest.mark.slow
def test_an_experiment_is_one_command_and_the_same_seed_gives_the_same_file(tmp_path, capsys):
    flags = [flag for change in CHANGES for flag in ("--set", change)]
    for folder in ("one", "two"):
        assert main(["theory", NAME, *flags, f"--output={tmp_path / folder}"]) == 0
        assert "fresh mean" in capsys.readouterr().out
    files = [tmp_path / folder / NAME / base.RESULTS for folder in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = base.read_rows(files[0])
    assert len(rows) == 2 and len(rows[0]["mean"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seperation"], "no experiment 'seperation'.*Nearest: separation"),
        (["all", "--set", "seed=1"], "--set is for one experiment"),
        (["debiasing", "--set", "share=1.5"], "share is 1.5.*above 0 and below 1"),
        (["debiasing", "--set", "count=1"], "n is 1; each of the three splits needs 2"),
        (["three-steps", "--set", "step_w=1e6"], "step_w is 1e\\+06.*largest that does not is"),
        (["sharing-rates", "--set", "sizes=(2,)"], "3 prompts are fitted to 2 points"),
    ],
)
def test_input_that_cannot_be_used_is_one_line(tmp_path, capsys, arguments, said):
    import re

    assert main(["theory", *arguments, f"--output={tmp_path}"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, message), message


def test_every_experiment_has_its_grid_and_larger_sizes():
    assert list(EXPERIMENTS) == [
        "separation",
        "three-steps",
        "sample-size",
        "debiasing",
        "exact-error",
        "sharing-rates",
    ]
    for experiment in EXPERIMENTS.values():
        cells = experiment.cells(experiment.settings)
        assert len(cells) == len({json.dumps(cell) for cell in cells}) > 10
        assert experiment.make_settings(True, []) != experiment.settings
    rates = EXPERIMENTS["sharing-rates"].settings
    assert len(rates.sizes) == 8 and rates.repeats == 20
