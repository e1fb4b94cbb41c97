"""An attention that a device does not have is refused, or left out where nobody named it."""

import dataclasses
import re

import jax
import pytest

from dpt_jax.errors import InputError
from dpt_jax.models import T5Config, attention_support
from dpt_jax.models.attention_support import why_not, with_attention
from dpt_jax.models.config import ATTENTIONS
from dpt_jax.problems.text import prepare
from tests.support import runs

CONFIG = T5Config(vocab_size=24, num_heads=2, head_dim=8)


def named(name, **changes):
    return dataclasses.replace(CONFIG, attention=name, **changes)


@pytest.mark.parametrize("name", ["auto", "plain", "blocked"])
def test_these_run_everywhere(name):
    assert [why_not(named(name), platform) for platform in ("cpu", "gpu", "tpu")] == [None] * 3


@pytest.mark.parametrize(
    ("changes", "platform", "message"),
    [
        ({"name": "pallas"}, "cpu", "needs a TPU, and this is a CPU.*'auto', 'plain', 'blocked'"),
        ({"name": "cudnn"}, "tpu", "needs a GPU, and this is a TPU.*'blocked', 'pallas'"),
        ({"name": "pallas", "head_dim": 12}, "tpu", "heads are 12 wide.*'auto', 'plain'"),
        ({"name": "cudnn"}, "gpu", "float32, and cuDNN takes bfloat16.*'auto', 'plain'"),
        ({"name": "cudnn", "dtype": "bfloat16", "head_dim": 256}, "gpu", "256 wide"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_can(changes, platform, message):
    assert re.search(message, str(why_not(named(**changes), platform)))
    assert why_not(named("pallas"), "tpu") is None
    assert why_not(named("cudnn", dtype="bfloat16"), "gpu") is None


def test_a_run_names_the_binding_before_anything_is_read():
    config = runs.run_config("", None, model=named("pallas", emb_dim=runs.WIDTH))
    with pytest.raises(InputError, match="ATTENTION = 'pallas' needs a TPU.*--gin.ATTENTION"):
        prepare(config).model  # noqa: B018


def test_an_unknown_attention_is_refused_by_name():
    with pytest.raises(ValueError, match="attention is 'flash'.*auto, plain, .*ATTENTION"):
        named("flash")
    assert set(attention_support._PLATFORM) < set(ATTENTIONS)


def test_a_kernel_that_fails_is_left_out_where_auto_chose_it_and_said_once(monkeypatch, caplog):
    # The TPU's kernels as if they were a CPU's, for which they cannot be compiled.
    monkeypatch.setattr(attention_support, "_PLATFORM", {"pallas": "cpu"})
    device = jax.devices("cpu")[0]
    for _ in range(2):
        assert with_attention(CONFIG, device, 16).attention == "plain"
    assert caplog.text.count("ATTENTION = 'auto' is 'plain' here: 'pallas' fails") == 1
    assert with_attention(named("pallas"), device, 16).attention == "pallas"
