"""What a prefix is by itself: its size in closed form, its start, and what it refuses."""

import pathlib
import re

import jax
import numpy as np
import pytest

from dpt_jax import prefixes
from dpt_jax.models import T5Config
from dpt_jax.prompts import SampledVocabulary, bind_vocabulary

SMALL = T5Config(vocab_size=32128)
BASE = T5Config(
    vocab_size=32128, emb_dim=768, num_heads=12, num_encoder_layers=12, num_decoder_layers=12
)
LARGE = T5Config(
    vocab_size=32128, emb_dim=1024, num_heads=16, num_encoder_layers=24, num_decoder_layers=24
)
METHODS = (
    "FreePrefix SimpleSharedPrefix DeepSharedPrefix OneLayerSharedPrefix SeparatePrefix "
    "DecomposedPrefix"
).split()


def closed_form(method, n, d, joined, layers, h=48, b=10):
    """Parameters of one stack, from the formulas of the docstrings."""
    if method == "FreePrefix":
        return layers * n * 2 * joined
    if method == "SimpleSharedPrefix":
        return layers * n * d
    if method == "DeepSharedPrefix":
        return layers * (n * d + d * h + h + (h + 1) * 2 * joined)
    if method == "OneLayerSharedPrefix":
        return layers * (n * d + (d + 1) * 2 * joined)
    if method == "SeparatePrefix":
        return layers * 2 * (n * d + d * h + h + (h + 1) * joined)
    return layers * b * (n + 2 * joined)


@pytest.mark.parametrize("config", [SMALL, BASE, LARGE], ids=["small", "base", "large"])
@pytest.mark.parametrize("method", METHODS)
def test_parameter_count_is_the_closed_form(method, config):
    own = {"bottleneck": 10} if method == "DecomposedPrefix" else {}
    d, joined, layers = config.emb_dim, config.num_heads * 64, config.num_encoder_layers
    expected = closed_form(method, 20, d, joined, layers)
    make = getattr(prefixes, method)
    assert make(20, **own).parameter_count(config) == expected
    assert make(20, prefixes.STACKS, **own).parameter_count(config) == 3 * expected
    first = make(20, layers="first", **own).parameter_count(config)
    assert first == expected // layers


def test_counts_of_the_paper():
    """Le et al. (2025) on ViT-B/16, whose 12 layers are T5-Base's, and N = 10 (CUB)."""
    counts = [184_320, 92_160, 1_438_272]
    assert [getattr(prefixes, m)(10).parameter_count(BASE) for m in METHODS[:3]] == counts


def test_layers_that_share():
    n, d, joined, h, layers = 5, 512, 512, 7, 6
    deep = prefixes.DeepSharedPrefix(n, hidden_dim=h, across_layers=True)
    assert deep.parameter_count(SMALL) == n * d + d * h + h + layers * (h + 1) * 2 * joined
    decomposed = prefixes.DecomposedPrefix(n, bottleneck=3, across_layers=True)
    assert decomposed.parameter_count(SMALL) == 3 * (n + layers * 2 * joined)


def test_rows_may_start_from_the_vocabulary():
    table = np.arange(50 * 512, dtype=np.float32).reshape(50, 512)
    prefix = prefixes.SimpleSharedPrefix(4, rows_init=SampledVocabulary(population=20))
    rows = bind_vocabulary(prefix, table).initialize(jax.random.key(0), SMALL)["encoder_rows"]
    assert rows.shape == (6, 4, 512)
    pieces = (np.asarray(rows[..., 0]) / 512).astype(int)
    np.testing.assert_array_equal(rows, table[pieces])
    assert pieces.min() >= 3 and pieces.max() < 23
    assert all(len(set(layer)) == 4 for layer in pieces.tolist())
    assert len({tuple(layer) for layer in pieces.tolist()}) > 1


def test_default_start_of_the_decomposed_prefix():
    prefix = prefixes.DecomposedPrefix(50, bottleneck=20)
    own = prefix.initialize(jax.random.key(0), SMALL)
    product = np.asarray(own["encoder_A"]) @ np.asarray(own["encoder_B"])
    assert product.std() == pytest.approx(3**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 0}, "PREFIX_LENGTH is 0"),
        ({"length": 2.5}, "PREFIX_LENGTH is 2.5"),
        (
            {"stacks": ("encoder", "middle")},
            "PREFIX_STACKS names 'middle'; there are encoder, deco",
        ),
        ({"stacks": ()}, r"PREFIX_STACKS is \(\); name at least one of encoder"),
        ({"stacks": None}, "PREFIX_STACKS is None; name at least one of encoder"),
        ({"layers": "last"}, "PREFIX_LAYERS is 'last'; it must be one of all, first"),
        ({"position_bias": "back"}, "FreePrefix.position_bias is 'back'"),
    ],
)
def test_refuses_what_is_no_prefix(fields, message):
    with pytest.raises(ValueError, match=message):
        prefixes.FreePrefix(**{"length": 3} | fields)


def test_stacks_are_named_one_by_one_or_alone():
    assert prefixes.FreePrefix(1, "cross").stacks == ("cross",)
    assert prefixes.FreePrefix(1, ["cross", "encoder"]).stacks == ("encoder", "cross")


def test_decomposed_prefix_needs_a_bottleneck():
    with pytest.raises(ValueError, match="BOTTLENECK is 0"):
        prefixes.DecomposedPrefix(3)


def test_documented_counts_are_those_of_the_code():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "prefixes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+ \| [\d,]+ \| [\d,]+) \|$", page, re.MULTILINE))
    assert len(rows) == len(METHODS)
    for name, row in rows.items():
        method = "".join(part.title() for part in name.split("_")) + "Prefix"
        own = {"bottleneck": 10} if name == "decomposed" else {}
        prefix = getattr(prefixes, method)(20, **own)
        counts = [prefix.parameter_count(config) for config in (SMALL, BASE, LARGE)]
        assert row == " | ".join(f"{count:,}" for count in counts), name


def test_deep_network_by_hand():
    """Keys are the first halves of the output, values the second: against NumPy in float64."""
    prefix = prefixes.DeepSharedPrefix(3, hidden_dim=4)
    own = jax.tree.map(np.asarray, prefix.initialize(jax.random.key(1), SMALL))
    keys, values = prefix.apply({"params": own}, prefixes.stacks_of(SMALL)["encoder"])
    own = {name: array.astype(np.float64) for name, array in own.items()}
    for layer in range(6):
        part = {name.removeprefix("encoder_"): array[layer] for name, array in own.items()}
        hidden = np.tanh(part["rows"] @ part["hidden_kernel"] + part["hidden_bias"])
        output = hidden @ part["output_kernel"] + part["output_bias"]
        np.testing.assert_allclose(keys[layer].reshape(3, -1), output[:, :512], atol=1e-5)
        np.testing.assert_allclose(values[layer].reshape(3, -1), output[:, 512:], atol=1e-5)


def test_decomposed_layers_share_a_and_have_their_own_b():
    prefix = prefixes.DecomposedPrefix(3, bottleneck=2, across_layers=True)
    own = jax.tree.map(np.asarray, prefix.initialize(jax.random.key(1), SMALL))
    keys, values = prefix.apply({"params": own}, prefixes.stacks_of(SMALL)["encoder"])
    for layer in range(6):
        product = own["encoder_A"].astype(np.float64) @ own["encoder_B"][layer]
        np.testing.assert_allclose(keys[layer].reshape(3, -1), product[:, :512], atol=1e-5)
        np.testing.assert_allclose(values[layer].reshape(3, -1), product[:, 512:], atol=1e-5)


@pytest.mark.parametrize("hidden_dim", [8, 48])
def test_the_control_starts_as_wide_as_the_deep_prefix(hidden_dim):
    config = T5Config(vocab_size=64, emb_dim=32, num_heads=4, num_encoder_layers=8, head_dim=16)
    deep = prefixes.DeepSharedPrefix(4, hidden_dim=hidden_dim)
    draw = jax.jit(deep.initialize, static_argnums=1)
    apply = jax.jit(
        lambda params: deep.apply({"params": params}, prefixes.stacks_of(config)["encoder"])
    )
    numbers = [np.asarray(apply(draw(jax.random.key(i), config))) for i in range(20)]
    init = prefixes.deep_scale(32, hidden_dim)
    drawn = np.asarray(init(jax.random.key(0), (100, 100)))
    assert drawn.std() == pytest.approx(np.std(numbers), rel=0.02)
    assert abs(drawn.mean()) < 0.01 * drawn.std() * 3
