"""Slices, links and the roofline, against arithmetic by hand."""

import pytest

from dpt_jax.errors import InputError
from dpt_jax.planning.compiled import Collective, Costs, Work
from dpt_jax.planning.roofline import estimate
from dpt_jax.planning.tpus import CHIPS, parse_topology


def test_a_topology_names_a_chip_and_a_slice():
    found = parse_topology("v5e:4x8")
    assert (found.chip.name, found.shape, found.chips) == ("v5e", (4, 8), 32)
    assert found.name == "v5e:4x8"


@pytest.mark.parametrize("name", ["v5e:5x5", "v9:2x2", "v5e", "4x4", "v5e:4x4x4", ""])
def test_a_topology_that_does_not_exist_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError) as error:
        parse_topology(name)
    for known in ("--topology", "v4: 2x2x1", "v5e: 1x1, 2x2, 2x4, 4x4", "v5p: ", "v6e: "):
        assert known in str(error.value)


def test_cloud_names_count_cores_on_the_chips_that_have_two():
    names = [parse_topology(n).accelerator_type for n in ("v5e:4x4", "v6e:2x4", "v5p:2x2x2")]
    assert names == ["v5litepod-16", "v6e-8", "v5p-16"]


def row(n, step=1):
    return [(0, step * i) for i in range(n)]


def test_a_row_sends_over_one_link_and_a_ring_over_two():
    link = CHIPS["v5e"].link_bytes_per_second
    assert parse_topology("v5e:4x4").exchange_rate(row(4)) == link
    assert parse_topology("v5e:16x16").exchange_rate(row(4)) == link
    assert parse_topology("v5e:16x16").exchange_rate(row(16)) == 2 * link


def test_a_group_in_two_dimensions_sends_along_both():
    link = CHIPS["v5e"].link_bytes_per_second
    everyone = [(x, y) for x in range(4) for y in range(4)]
    assert parse_topology("v5e:4x4").exchange_rate(everyone) == 2 * link


def test_groups_that_interleave_share_their_links():
    link = CHIPS["v5e"].link_bytes_per_second
    assert parse_topology("v5e:4x8").exchange_rate(row(4, step=2)) == link / 2
    assert parse_topology("v5e:16x16").exchange_rate(row(8, step=2)) == 2 * link / 2


def test_three_dimensions_are_rings_in_whole_cubes_only():
    link = CHIPS["v5p"].link_bytes_per_second
    column = [(0, 0, z) for z in range(4)]
    assert parse_topology("v5p:2x2x4").exchange_rate(column) == link
    assert parse_topology("v5p:4x4x4").exchange_rate(column) == 2 * link


def test_the_estimate_adds_instructions_each_bound_by_its_slower_side_and_collectives():
    where = parse_topology("v5e:4x4")
    chip = where.chip
    costs = Costs(
        work=(
            # 2 s of products with 1 s of bytes, twice; 3 s of bytes; 4 s of bytes beside them.
            Work(2 * chip.flops_per_second, chip.hbm_bytes_per_second, 2),
            Work(0, 3 * chip.hbm_bytes_per_second, 1),
            Work(0, 1 * chip.hbm_bytes_per_second, 4, waits=False),
        ),
        collectives=(Collective("all-reduce", 5 * chip.link_bytes_per_second, (0, 1), 2),),
    )
    found = estimate(costs, where, places=row(2))
    assert found.compute == pytest.approx(4)
    assert found.memory == pytest.approx(9)
    assert found.collectives == pytest.approx(10)
    # In turn 2 * 2 + 3 = 7 s, but the memory is busy for 9.
    assert found.total == pytest.approx(19)
