"""The gin files of the published models parse and have the published numbers of parameters."""

import math
import os
from importlib import resources
from pathlib import Path

import gin
import pytest

from dpt_jax.interop.parameters import parameter_shapes
from dpt_jax.models import T5Config

# As counted in the released checkpoints; a tied output projection counts once.
PARAMETERS = {
    "t5_1_0_small": 60_506_624,
    "t5_1_0_base": 222_903_552,
    "t5_1_0_large": 737_668_096,
    "t5_1_0_3b": 2_851_598_336,
    "t5_1_0_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
    "umt5_small": 306_601_984,
    "umt5_base": 592_043_520,
    "umt5_xl": 3_768_356_864,
    "umt5_xxl": 12_972_531_712,
}
for size in ("small", "base", "large", "xl", "xxl"):
    PARAMETERS[f"t5_1_1_lm100k_{size}"] = PARAMETERS[f"t5_1_1_{size}"]
    PARAMETERS[f"flan_t5_{size}"] = PARAMETERS[f"t5_1_1_{size}"]
# The paper gives three digits (Xue et al., 2022, table 1).
ROUNDED = {
    "byt5_small": 300e6,
    "byt5_base": 582e6,
    "byt5_large": 1.23e9,
    "byt5_xl": 3.74e9,
    "byt5_xxl": 12.9e9,
}
FAMILIES = {"t5_1_0", "t5_1_1", "byt5"}

CONFIGS = Path(str(resources.files("dpt_jax.gin_configs")))


@pytest.fixture(autouse=True)
def clean_gin(monkeypatch):
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
    gin.add_config_file_search_path(str(CONFIGS))
    gin.clear_config()
    yield
    gin.clear_config()


def model(name, *bindings) -> T5Config:
    gin.parse_config_files_and_bindings([os.path.join("models", f"{name}.gin")], bindings)
    return gin.query_parameter("%MODEL").scoped_configurable_fn()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARAMETERS, *ROUNDED])
def test_the_model_has_the_published_number_of_parameters(name):
    config = model(name)
    assert isinstance(config, T5Config)
    count = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    if name in PARAMETERS:
        assert count == PARAMETERS[name]
    else:
        assert float(f"{count:.2e}") == ROUNDED[name]
    assert config.emb_dim == gin.query_parameter("%EMBED_DIM")
    assert config.dropout_rate == 0.0


def test_every_model_file_is_counted():
    files = {path.stem for path in (CONFIGS / "models").glob("*.gin")}
    # The demo's backbone is counted with the demo.
    vits = {name for name in files if "vit" in name}
    assert vits == {"vit", "demo_vit", "vit_s4_cifar", *VITS}
    assert files - {"demo"} - vits == {*PARAMETERS, *ROUNDED} | FAMILIES


# Without a head, as Dosovitskiy et al. (2021) and Steiner et al. (2022) have them.
VITS = {"vit_ti16": 5.5, "vit_s16": 21.7, "vit_b16": 85.8, "vit_b32": 87.5, "vit_l16": 303.3}


@pytest.mark.parametrize("name", VITS)
def test_a_vit_has_the_published_number_of_parameters(name):
    from dpt_jax.interop.vit.parameters import parameter_shapes

    config = model(name)
    count = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    assert round(count / 1e6, 1) == VITS[name]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("t5_1_0_11b", {"num_heads": 128, "head_dim": 128, "mlp_dim": 65536, "emb_dim": 1024}),
        ("t5_1_0_3b", {"num_heads": 32, "head_dim": 128, "mlp_dim": 16384, "emb_dim": 1024}),
        ("t5_1_1_xxl", {"num_heads": 64, "head_dim": 64, "mlp_dim": 10240, "emb_dim": 4096}),
        ("mt5_base", {"vocab_size": 250112, "mlp_activations": ("gelu", "linear")}),
        ("umt5_xl", {"vocab_size": 256384, "relpos_bias_per_layer": True, "emb_dim": 2048}),
        ("byt5_small", {"vocab_size": 384, "num_encoder_layers": 12, "num_decoder_layers": 4}),
    ],
)
def test_sizes_that_a_count_alone_does_not_show(name, sizes):
    config = model(name)
    assert {field: getattr(config, field) for field in sizes} == sizes


def test_dropout_and_activation_dtype_can_be_bound_from_outside():
    config = model("t5_1_0_small", "DROPOUT_RATE = 0.1", "models.T5Config.dtype = 'bfloat16'")
    assert (config.dropout_rate, config.dtype.name) == (0.1, "bfloat16")
