import dataclasses
import json

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop.vit import open_vit, write_vit
from dpt_jax.interop.vit.positions import resize_positions
from dpt_jax.models.vit import VisionTransformer
from tests.support import vits

SIZES = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}


def values(backbone):
    return {name: tensor.load() for name, tensor in backbone.tensors.items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random classifier of Transformers, saved in both of its layouts."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZES, num_labels=4, layer_norm_eps=1e-5)
    model = transformers.ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.05 if parameter.ndim == 1 else 0.0, 0.3)
    root = tmp_path_factory.mktemp("hf")
    model.save_pretrained(root / "disk")
    model.save_pretrained(root / "memory", save_original_format=False)
    return root, model


@pytest.mark.interop
@pytest.mark.parametrize("layout", ["disk", "memory"])
def test_logits_are_those_of_transformers(theirs, layout):
    import torch

    root, model = theirs
    backbone = open_vit(root / layout)
    assert (backbone.config.gelu, backbone.config.epsilon) == ("exact", 1e-5)
    images = vits.images()
    with torch.no_grad():
        expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits.numpy()
    params = unflatten_dict(values(backbone), sep="/")
    found = vits.applied(VisionTransformer(backbone.config))(params, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.interop
def test_the_two_layouts_differ_on_disk_and_give_one_tree(theirs):
    from safetensors.numpy import load_file

    root, _ = theirs
    names = [set(load_file(root / name / "model.safetensors")) for name in ("disk", "memory")]
    assert names[0] != names[1]
    one, other = values(open_vit(root / "disk")), values(open_vit(root / "memory"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.interop
@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_our_weights_are_transformers_after_conversion(tmp_path, gelu):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(vits.CONFIG, gelu=gelu, epsilon=1e-3)
    write_vit(tmp_path / "ours", config, vits.tensors())
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(vits.images().transpose(0, 3, 1, 2))).logits.numpy()
    found = vits.applied(VisionTransformer(config))(vits.parameters(), vits.images())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # And back: bits, GELU and epsilon.
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    back = open_vit(tmp_path / "back")
    assert (back.config.gelu, back.config.epsilon) == (gelu, 1e-3)
    for name, array in vits.flat_parameters().items():
        np.testing.assert_array_equal(back.tensors[name].load(), array)


def google(flat, layout):
    """The parameters under the names of one of google-research's codes, written out by hand."""
    norms, attention, mlp = {
        "old": (("LayerNorm_0", "LayerNorm_2"), "MultiHeadDotProductAttention_1", "MlpBlock_3"),
    }.get(layout, (("LayerNorm_0", "LayerNorm_1"), "MultiHeadDotProductAttention_0", "MlpBlock_0"))
    stored = {
        "embedding/kernel": flat["patch_embedding/kernel"],
        "embedding/bias": flat["patch_embedding/bias"],
        "Transformer/encoder_norm/scale": flat["encoder/encoder_norm/scale"],
        "Transformer/encoder_norm/bias": flat["encoder/encoder_norm/bias"],
    }
    cls, positions = flat["cls_token"], flat["position_embedding"]
    if layout.startswith("big_vision"):
        stored["cls"] = (cls + positions[0])[None, None]
        stored["pos_embedding"] = positions[None, 1:]
    else:
        stored["cls"] = cls[None, None]
        stored["Transformer/posembed_input/pos_embedding"] = positions[None]
    head = "output_projection" if layout == "scenic" else "head"
    stored |= {f"{head}/{leaf}": flat[f"head/{leaf}"] for leaf in ("kernel", "bias")}
    for i in range(2):
        theirs, ours = f"Transformer/encoderblock_{i}", f"encoder/layers_{i}"
        for norm, part in zip(norms, ("attention", "mlp"), strict=True):
            for leaf in ("scale", "bias"):
                stored[f"{theirs}/{norm}/{leaf}"] = flat[f"{ours}/pre_{part}_layer_norm/{leaf}"]
        for part in ("query", "key", "value", "out"):
            kernel, bias = (flat[f"{ours}/attention/{part}/{leaf}"] for leaf in ("kernel", "bias"))
            split = (4, 4, 16) if part == "out" else (16, 4, 4)
            stored[f"{theirs}/{attention}/{part}/kernel"] = kernel.reshape(split)
            stored[f"{theirs}/{attention}/{part}/bias"] = (
                bias if part == "out" else bias.reshape(4, 4)
            )
        for number, part in enumerate(("wi", "wo")):
            for leaf in ("kernel", "bias"):
                name = f"{theirs}/{mlp}/Dense_{number}/{leaf}"
                stored[name] = flat[f"{ours}/mlp/{part}/{leaf}"]
    if layout == "big_vision, scanned":
        block = "Transformer/encoderblock"
        first = [name for name in stored if name.startswith(f"{block}_0/")]
        for name in first:
            rest = name.removeprefix(f"{block}_0/")
            layers = [stored.pop(f"{block}_{i}/{rest}") for i in range(2)]
            stored[f"{block}/{rest}"] = np.stack(layers)
    prefix = {"old": "opt/target/", "big_vision": "params/"}.get(layout, "")
    return {f"{prefix}{name}": array for name, array in stored.items()}


LAYOUTS = ("old", "linen", "scenic", "big_vision", "big_vision, scanned")


@pytest.fixture(scope="module")
def npz_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("npz")
    for layout in LAYOUTS:
        np.savez(root / f"{layout}.npz", **google(vits.flat_parameters(), layout))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_googles_layouts_give_one_tree(npz_files, layout):
    backbone = open_vit(npz_files / f"{layout}.npz")
    assert backbone.config == dataclasses.replace(vits.CONFIG, gelu="tanh", epsilon=1e-6)
    expected = dict(vits.flat_parameters())
    expected["cls_token"] = expected["cls_token"] + expected["position_embedding"][0]
    expected["position_embedding"] = expected["position_embedding"].copy()
    expected["position_embedding"][0] = 0
    found = values(backbone)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_head_behind_pre_logits_is_left_out(tmp_path):
    stored = google(vits.flat_parameters(), "linen")
    stored["pre_logits/kernel"] = np.zeros((16, 16), np.float32)
    np.savez(tmp_path / "x.npz", **stored)
    backbone = open_vit(tmp_path / "x.npz")
    assert backbone.config.num_classes == 0
    assert not any(name.startswith("head/") for name in backbone.tensors)


def test_convert_and_inspect_know_an_npz(npz_files, tmp_path, capsys):
    file = npz_files / "old.npz"
    assert main(["convert", str(file), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert "bfloat16" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "backbone" and "pretrained ViT" in told["summary"]
    assert told["details"]["gelu"] == "tanh" and told["details"]["epsilon"] == 1e-6
    assert main(["inspect", str(file)]) == 0
    count = sum(array.size for array in vits.flat_parameters().values())
    assert f"Total: {count:,} numbers" in capsys.readouterr().out


@pytest.mark.interop
@pytest.mark.parametrize("old, new", [(2, 5), (4, 2), (3, 3)])
def test_cubic_positions_are_torchs(old, new):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(1 + old**2, 6)).astype(np.float32)
    grid = torch.from_numpy(positions[1:].reshape(1, old, old, 6).transpose(0, 3, 1, 2).copy())
    resized = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic").numpy()[0]
    found = resize_positions(positions, new, "cubic")
    np.testing.assert_allclose(found[1:], resized.transpose(1, 2, 0).reshape(-1, 6), atol=1e-5)
    np.testing.assert_array_equal(found[0], positions[0])


@pytest.mark.parametrize("old, new", [(2, 5), (4, 2), (3, 1)])
def test_linear_positions_are_scipys(old, new):
    from scipy.ndimage import zoom

    positions = np.random.default_rng(0).normal(size=(1 + old**2, 6)).astype(np.float32)
    expected = zoom(positions[1:].reshape(old, old, 6), (new / old, new / old, 1), order=1)
    found = resize_positions(positions, new, "linear")
    np.testing.assert_allclose(found[1:], expected.reshape(-1, 6), atol=1e-5)


def test_another_image_size_and_no_head(tmp_path):
    write_vit(tmp_path / "x", vits.CONFIG, vits.tensors())
    wanted = dataclasses.replace(vits.CONFIG, image_size=16, num_classes=7, gelu="tanh")
    backbone = open_vit(tmp_path / "x", wanted)
    assert backbone.numerics == {"gelu": "exact", "epsilon": 1e-12}
    assert backbone.tensors["position_embedding"].load().shape == (17, 16)
    assert not any(name.startswith("head/") for name in backbone.tensors)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"num_layers": 3},
            "parameter encoder/layers_2/attention/key/bias is missing, but the model "
            r"file asks for \(16,\).*num_layers 2",
        ),
        (
            {"mlp_dim": 32},
            r"parameter encoder/layers_0/mlp/wi/bias has shape \(24,\), but the model file "
            r"asks for \(32,\)",
        ),
        ({"num_heads": 2}, "num_heads is 4, but the model file says 2"),
    ],
)
def test_weights_of_another_form_are_refused(tmp_path, changes, message):
    write_vit(tmp_path / "x", vits.CONFIG, vits.tensors())
    with pytest.raises(InputError, match=message):
        open_vit(tmp_path / "x", dataclasses.replace(vits.CONFIG, **changes))


def test_a_missing_or_unknown_parameter_is_named(tmp_path):
    stored = google(vits.flat_parameters(), "linen")
    np.savez(tmp_path / "more.npz", **stored, **{"Transformer/adapter/kernel": np.zeros(2)})
    with pytest.raises(InputError, match="Transformer/adapter/kernel"):
        open_vit(tmp_path / "more.npz")
    name = "Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias"
    np.savez(tmp_path / "less.npz", **{k: v for k, v in stored.items() if k != name})
    with pytest.raises(InputError, match="encoder/layers_1/mlp/wo/bias is missing"):
        open_vit(tmp_path / "less.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "more.npz").read_bytes()[:900])
    with pytest.raises(InputError, match="holds no pretrained ViT"):
        open_vit(tmp_path / "cut.npz")
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
