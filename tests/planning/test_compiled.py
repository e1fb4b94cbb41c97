"""Costs read from a compiled program, against closed forms."""

import functools

import jax
import jax.numpy as jnp
import pytest

from dpt_jax.planning.compiled import read_costs


def costs_of(function, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return read_costs(jax.jit(function).lower(*args).compile().as_text())


def program(*lines, others=""):
    """A hand-written program in the notation of libtpu's compiler."""
    body = "\n".join(f"  {line}" for line in lines)
    entry = "ENTRY %main (p: f32[]) -> f32[] {"
    return f"HloModule m, num_partitions=16\n\n{others}\n{entry}\n{body}\n}}\n"


def test_a_matrix_product_is_two_operations_a_term():
    costs = costs_of(jnp.matmul, (48, 96), (96, 160))
    assert costs.flops == 2 * 48 * 96 * 160
    assert costs.bytes == 4 * (48 * 96 + 96 * 160 + 48 * 160)
    assert costs.collectives == ()


def test_batched_products_count_every_batch():
    costs = costs_of(lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b), (3, 4, 20, 8), (3, 4, 30, 8))
    assert costs.flops == 2 * 3 * 4 * 20 * 30 * 8


def test_a_loop_counts_as_often_as_it_runs():
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    assert costs_of(scanned, (32, 32), (32, 32)).flops == 7 * 2 * 32**3


def test_a_convolution_counts_the_positions_inside_its_input():
    def convolve(padding, x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), padding)

    shapes = (2, 3, 10, 10), (5, 3, 3, 3)
    valid = costs_of(functools.partial(convolve, "VALID"), *shapes)
    assert valid.flops == 2 * 2 * 5 * 3 * (8 * 3) ** 2
    # At each end of a side of ten, one of three positions is outside.
    same = costs_of(functools.partial(convolve, "SAME"), *shapes)
    assert same.flops == 2 * 2 * 5 * 3 * (10 * 3 - 2) ** 2


def test_a_batched_product_written_as_a_dilated_convolution_is_counted_as_the_product():
    # How libtpu writes 8 x 2 products of [612, 64] and [64, 612].
    costs = read_costs(
        program(
            "%a = bf16[8,2,612,64]{3,2,1,0} parameter(0)",
            "%b = bf16[8,2,64,612]{3,2,1,0} parameter(1)",
            "ROOT %c = bf16[8,2,612,612]{3,2,1,0:T(8,128)(2,1)} convolution(%a, %b), "
            "window={size=8x2 stride=7x1 lhs_dilate=8x2}, dim_labels=01bf_01io->01bf",
        )
    )
    assert costs.flops == 2 * 8 * 2 * 612 * 612 * 64


def test_what_lives_in_fast_memory_moves_no_bytes():
    costs = read_costs(
        program(
            "%a = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)",
            "%b = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)",
            "ROOT %c = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} add(%a, %b)",
        )
    )
    assert costs.bytes == 2 * 128 * 256


def test_a_copy_to_fast_memory_moves_its_bytes_once_beside_other_work():
    costs = read_costs(
        program(
            "%a = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(0)",
            "%s = ((bf16[1024,1024]{1,0:T(8,128)(2,1)}), bf16[256,1024]{1,0:T(8,128)(2,1)S(1)}, "
            "s32[]{:S(2)}) slice-start(%a), slice={[0:256], [0:1024]}",
            "ROOT %d = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} slice-done(%s)",
        )
    )
    assert costs.bytes == 2 * 256 * 1024
    assert [work.waits for work in costs.work] == [False]


def test_of_an_embedding_table_only_the_rows_looked_up_are_read():
    fused = (
        "%fused (t: f32[1000,64], i: s32[5]) -> f32[5,64] {\n"
        "  %t = f32[1000,64]{1,0} parameter(0)\n"
        "  %i = s32[5]{0} parameter(1)\n"
        "  ROOT %g = f32[5,64]{1,0} gather(%t, %i), offset_dims={1}\n}\n"
    )
    costs = read_costs(
        program(
            "%table = f32[1000,64]{1,0} parameter(0)",
            "%ids = s32[5]{0} parameter(1)",
            "ROOT %f = f32[5,64]{1,0} fusion(%table, %ids), kind=kLoop, calls=%fused",
            others=fused,
        )
    )
    assert costs.bytes == 4 * (5 * 64 + 5 + 5 * 64)


GROUPS = {
    "replica_groups={{0,4,8,12},{1,5,9,13},{2,6,10,14},{3,7,11,15}}": (0, 4, 8, 12),
    "replica_groups=[4,4]<=[16]": (0, 1, 2, 3),
    "replica_groups=[4,4]<=[4,4]T(1,0)": (0, 4, 8, 12),
    "replica_groups=mesh['x'=4,'y'=1,'z'=4] {'z'}": (0, 1, 2, 3),
    "replica_groups=mesh['x'=4,'y'=1,'z'=4] {'x'}": (0, 4, 8, 12),
    "replica_groups=mesh['x'=4,'z'=4], device_ids=([4,4]T(1,0)) {'x'}": (0, 1, 2, 3),
    "replica_groups=mesh['x'=4,'z'=4] {'x','z'}": tuple(range(16)),
    "replica_groups={}": tuple(range(16)),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_are_read_in_every_notation(groups):
    (found,) = read_costs(
        program(
            "%a = bf16[1024]{0} parameter(0)",
            f"ROOT %r = bf16[1024]{{0}} all-reduce(%a), channel_id=1, {groups}, to_apply=%add",
        )
    ).collectives
    n = len(GROUPS[groups])
    assert found.group == GROUPS[groups]
    assert found.bytes_sent == 2 * (n - 1) / n * 2048


@pytest.mark.parametrize(
    ("kind", "result", "sent"),
    [
        ("all-gather", 4096, 3 * 4096),
        ("reduce-scatter", 256, 3 / 4 * 4096),
        ("all-to-all", 1024, 3 / 4 * 4096),
    ],
)
def test_bytes_of_collectives_are_those_of_a_ring(kind, result, sent):
    (found,) = read_costs(
        program(
            "%a = f32[1024]{0} parameter(0)",
            f"ROOT %r = f32[{result}]{{0}} {kind}(%a), replica_groups=[4,4]<=[16]",
        )
    ).collectives
    assert (found.kind, found.bytes_sent) == (kind, sent)


def test_a_started_collective_in_a_loop_without_a_known_count_is_counted_by_its_bound():
    loop = """%cond (c: (s32[], f32[1024])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[1024]{0}) parameter(0)
  %n = s32[]{:T(128)} constant(6)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (b: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %b = (s32[]{:T(128)}, f32[1024]{0}) parameter(0)
  %x = f32[1024]{0} get-tuple-element(%b), index=1
  %i.1 = s32[]{:T(128)} get-tuple-element(%b), index=0
  %s = (f32[1024]{0}, f32[1024]{0}) collective-permute-start(%x), source_target_pairs={{0,0},{1,2}}
  %d = f32[1024]{0} collective-permute-done(%s)
  ROOT %t = (s32[]{:T(128)}, f32[1024]{0}) tuple(%i.1, %d)
}
"""
    costs = read_costs(
        program(
            "%p = (s32[]{:T(128)}, f32[1024]{0}) parameter(0)",
            "ROOT %w = (s32[]{:T(128)}, f32[1024]{0}) while(%p), condition=%cond, body=%body",
            others=loop,
        )
    )
    assert costs.by_kind() == {"collective-permute": {"count": 6, "bytes": 6 * 4096}}
    assert {c.group for c in costs.collectives} == {(1, 2)}


def test_an_exchange_that_is_spread_over_fusions_counts_once_and_moves_no_memory():
    # Start, and a product that goes on beside it, as libtpu writes them.
    fused = """%start (a: f32[256]) -> (f32[256], f32[1024]) {
  %a = f32[256]{0} parameter(0)
  %g = f32[1024]{0} all-gather(%a), channel_id=7, replica_groups=[4,4]<=[16], dimensions={0}
  ROOT %c = (f32[256]{0}, f32[1024]{0}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%step (a: f32[256], g: f32[1024], x: f32[64,64]) -> (f32[64,64], f32[256], f32[1024]) {
  %a = f32[256]{0} parameter(0)
  %g.1 = f32[1024]{0} parameter(1)
  %x = f32[64,64]{1,0} parameter(2)
  %g = f32[1024]{0} all-gather(%a), channel_id=7, replica_groups=[4,4]<=[16], dimensions={0}
  %d = f32[64,64]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[64,64]{1,0}, f32[256]{0}, f32[1024]{0}) tuple(%d, %a, %g.1)
}
"""
    costs = read_costs(
        program(
            "%w = f32[256]{0} parameter(0)",
            "%x = f32[64,64]{1,0} parameter(1)",
            "%s = (f32[256]{0}, f32[1024]{0}) fusion(%w), kind=kCustom, calls=%start",
            "%a = f32[256]{0} get-tuple-element(%s), index=0",
            "%g = f32[1024]{0} get-tuple-element(%s), index=1",
            "ROOT %f = (f32[64,64]{1,0}, f32[256]{0}, f32[1024]{0}) fusion(%a, %g, %x), "
            "kind=kOutput, calls=%step",
            others=fused,
        )
    )
    assert costs.by_kind() == {"all-gather": {"count": 1, "bytes": 3 * 4 * 256}}
    assert costs.flops == 2 * 64**3
    # One operand, read by both sides of the product, and the product.
    assert costs.bytes == 4 * 2 * 64 * 64


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_costs("HloModule nothing")
