"""Soft prompts as the DPT authors' released code saves them, and what only looks like one."""

import zipfile

import jax
import numpy as np
import pytest

from dpt_jax import prompts
from dpt_jax.errors import InputError
from dpt_jax.interop import FactorsFile, load_factors, load_prompt

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
pytestmark = pytest.mark.interop

P, BOTTLENECK, D = 6, 3, 16


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.prefix_first = torch.nn.Parameter(torch.rand(P, BOTTLENECK, generator=generator) - 0.5)
        self.prefix_second = torch.nn.Parameter(torch.rand(BOTTLENECK, D, generator=generator))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()


def save_as_released(path, model):
    """A checkpoint with all that main_ddp.py puts into one, after a step of training."""
    # The learning rate times the root of the number of GPUs is a NumPy number.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3 * np.sqrt(2), weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    schedule.step()
    checkpoint = {
        "global_step": 700,
        "params": {name: p for name, p in model.named_parameters() if "prefix" in name},
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
    }
    torch.save(checkpoint, path)


@pytest.fixture
def encoder():
    return Encoder()


def product(encoder):
    return (encoder.prefix_first @ encoder.prefix_second).detach().numpy()


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_released_checkpoint_is_the_product_of_its_factors(tmp_path, gpus):
    model = Model()
    path = tmp_path / "superglue-cb.soft_prompts.step.700.pt"
    # On several GPUs the model is wrapped, and so are the names.
    save_as_released(path, torch.nn.ModuleDict({"module": model}) if gpus > 1 else model)
    np.testing.assert_allclose(load_prompt(path), product(model.encoder), atol=1e-6)
    factors = load_factors(path)
    np.testing.assert_array_equal(factors["A"], model.encoder.prefix_first.detach().numpy())
    np.testing.assert_array_equal(factors["B"], model.encoder.prefix_second.detach().numpy())


def test_a_checkpoint_written_under_numpy_1_is_read(tmp_path):
    model = Model()
    save_as_released(tmp_path / "new.pt", model)
    renamed = 0
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as new,
        zipfile.ZipFile(tmp_path / "old.pt", "w") as old,
    ):
        for name in new.namelist():
            content = new.read(name)
            renamed += content.count(b"numpy._core.multiarray")
            old.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert renamed or np.__version__.startswith("1.")
    np.testing.assert_allclose(load_prompt(tmp_path / "old.pt"), product(model.encoder), atol=1e-6)


def test_a_decomposed_prompt_continues_from_the_very_factors(tmp_path, encoder):
    torch.save({"params": encoder.state_dict()}, tmp_path / "p.pt")
    factors = FactorsFile(str(tmp_path / "p.pt"))
    start = {name: prompts.from_factors(factors, name) for name in "AB"}
    prompt = prompts.DecomposedPrompt(P, D, BOTTLENECK, start["A"], start["B"])
    params = prompt.initialize(jax.random.key(0))
    np.testing.assert_array_equal(params["A"], encoder.prefix_first.detach().numpy())
    np.testing.assert_array_equal(params["B"], encoder.prefix_second.detach().numpy())


def test_the_parameters_alone_are_enough(tmp_path, encoder):
    torch.save(encoder.state_dict(), tmp_path / "latest_checkpoint")
    np.testing.assert_allclose(
        load_prompt(tmp_path / "latest_checkpoint"), product(encoder), atol=1e-6
    )


def test_another_file_of_pytorch_is_refused_with_what_it_holds(tmp_path):
    torch.save({"encoder.weight": torch.ones(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt.*prefix_first.*encoder\.weight.*--prompt"):
        load_prompt(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list\.pt.*holds a list"):
        load_prompt(tmp_path / "list.pt")


class Harmful:
    def __reduce__(self):
        return (exec, ("raise RuntimeError('it was run')",))


def test_a_file_that_would_run_code_is_refused(tmp_path, encoder):
    torch.save({"params": encoder.state_dict(), "extra": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"bad\.pt is refused.*run any code.*--prompt"):
        load_prompt(tmp_path / "bad.pt")


def test_a_truncated_file_is_named(tmp_path, encoder):
    path = tmp_path / "cut.pt"
    torch.save({"params": encoder.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.pt cannot be read.*--prompt"):
        load_prompt(path)


def test_without_pytorch_the_extra_is_named(tmp_path, encoder, monkeypatch):
    torch.save(encoder.state_dict(), tmp_path / "p.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match=r"PyTorch.*dpt-jax\[interop\]"):
        load_prompt(tmp_path / "p.pt")
