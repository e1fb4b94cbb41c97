"""`dpt attention`: what is measured equals what is computed by hand, and pictures are there."""

import json

import jax
import numpy as np
import pytest

from dpt_jax.analysis import relevance
from dpt_jax.cli.main import main
from dpt_jax.evaluation.vit_attention import patch_attention, query_alignment
from dpt_jax.models.vit import LayerPrompts, VisionTransformer
from dpt_jax.prefixes import FreePrefix
from dpt_jax.prompts import VanillaPrompt
from tests.support import image_runs, vits


def test_the_ratio_is_that_of_hand_and_shuffling_takes_it_away():
    relevant = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5]], np.float32)
    weights = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.4, 0.2, 0.2], [0.1, 0.1, 0.4, 0.4]])
    found = relevance.ratios(weights[:, None, None], relevant)[:, 0, 0]
    np.testing.assert_allclose(found, [0.7 / 0.25, 0.4 / 0.25, 0.4 / 0.25])
    # Attention that follows the mask is the chance level once masks are those of others.
    rng = np.random.default_rng(0)
    masks = (rng.random((400, 9)) < 0.4).astype(np.float32)
    masks = masks[relevance.informative(masks)]
    follows = (0.1 + masks) / (0.1 + masks).sum(-1, keepdims=True)
    follows = np.broadcast_to(follows[:, None, None], (len(masks), 2, 3, 9))
    own, other = relevance.selection(follows, masks), relevance.null(follows, masks)
    assert own.by_layer.min() > 2 and own.low.min() > other.high.max()
    assert (np.abs(other.by_layer - 1) < 0.05).all()
    # Sums to one for every image: the interval is that of the mean of as many draws.
    values = rng.normal(3, 2, (500, 1))
    low, high = relevance.bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(500)
    np.testing.assert_allclose(
        [low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True])
def test_attention_to_patches_is_the_networks_softmax(hidden):
    """The first layer's, in NumPy, of CLS and of prompts."""
    model = VisionTransformer(vits.CONFIG, LayerPrompts(VanillaPrompt(3, 16), 2), hidden)
    params = vits.own(model, vits.parameters())
    found = patch_attention(model, params, vits.images(3), batch_size=2)
    assert found.prompts.shape == found.cls.shape == (3, 2, 4, 4)
    kernel, image = params["patch_embedding"]["kernel"], vits.images(3)[2]
    corners = [(i, j) for i in (0, 4) for j in (0, 4)]
    rows = np.stack([np.tensordot(image[i : i + 4, j : j + 4], kernel, 3) for i, j in corners])
    rows += params["patch_embedding"]["bias"]
    x = np.concatenate([params["cls_token"][None], rows]) + params["position_embedding"]
    layer = params["encoder"]["layers_0"]

    def projected(x, name):
        norm, own = layer["pre_attention_layer_norm"], layer["attention"][name]
        y = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        y = (y * norm["scale"] + norm["bias"]) @ own["kernel"] + own["bias"]
        return y.reshape(-1, 4, 4).swapaxes(0, 1)

    keys = projected(x[1:], "key")
    asking = {"cls": x[:1], "prompts": params["prompt"]["layers_0"]["prompt"]}
    for name, tokens in asking.items():
        scores = projected(tokens, "query") @ keys.swapaxes(1, 2) / 2
        if name == "cls" or hidden:
            # One query, or the same keys for all: the softmax over patches alone.
            weights = np.asarray(jax.nn.softmax(scores))
            if name == "cls":
                np.testing.assert_allclose(found.cls[2, 0], weights[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.prompts.sum(-1), 1, atol=1e-5)
    # A query's score is linear in the patch, so its cosine is that of the score of a difference.
    relevant = np.array([[1, 0, 0.5, 0]])
    aligned = query_alignment(model, params, image[None], relevant)
    norm = layer["pre_attention_layer_norm"]
    y = (x[1:] - x[1:].mean(-1, keepdims=True)) / x[1:].std(-1, keepdims=True)
    y = y * norm["scale"] + norm["bias"]
    direction = relevant[0] @ y / 1.5 - (1 - relevant[0]) @ y / 2.5
    kernel = layer["attention"]["key"]["kernel"].reshape(16, 4, 4)
    asked = np.einsum("hpk,ehk->hpe", projected(asking["prompts"], "query"), kernel)
    expected = asked @ direction / np.linalg.norm(asked, axis=-1) / np.linalg.norm(direction)
    np.testing.assert_allclose(aligned, expected, atol=1e-4)


def test_a_prefix_does_not_ask():
    model = VisionTransformer(vits.CONFIG, prefix=FreePrefix(2))
    params = vits.own(model, vits.parameters())
    found = patch_attention(model, params, vits.images(2))
    assert found.prompts is None and found.cls.shape == (2, 2, 4, 4)


@pytest.mark.slow
def test_the_command_measures_and_draws(tmp_path, capsys):
    vit = image_runs.save(tmp_path)
    data = "from dpt_jax.data import contextual\nDATA = @contextual.PartialTiled()\n"
    data += "contextual.PartialTiled.source = @images.Digits()\nvit.ViTConfig.image_size = 24\n"
    path = tmp_path / "tiny.gin"
    path.write_text(path.read_text().replace("DATA = @images.Digits()", "") + data)
    run = tmp_path / "run"
    arguments = image_runs.arguments(
        run, vit, "prompts/vanilla_vpt.gin", PROMPT_PLACEMENT="hidden", TRAIN_STEPS=2, EVAL_PERIOD=2
    )
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["attention", str(run), "--images=40"]) == 0
    shown = capsys.readouterr().out
    told = json.loads((run / "attention" / "attention.json").read_text())
    assert told["images"] == 40 and len(told["selections"]) == 8
    one = told["selections"]["CLS"]
    assert np.shape(one["ratio"]) == (2, 4) and one["low"][0] < one["by_layer"][0] < one["high"][0]
    # Hidden prompts leave CLS as it is.
    assert one["ratio"] == told["selections"]["CLS of the frozen ViT"]["ratio"]
    assert "untrained prompts, shuffled masks" in shown and "First layer, prompts: cosine" in shown
    assert np.shape(told["alignment"]["prompts"])[0] == 4
    for name in ("attention.png", "selection.png"):
        assert (run / "attention" / name).read_bytes()[:4] == b"\x89PNG"
    # A report has the pictures, and a prompt for each layer has no spectrum of its own.
    assert main(["report", str(run), f"--output={tmp_path / 'report.md'}"]) == 0
    assert "report/runs_run_attention.png" in (tmp_path / "report.md").read_text()
    assert main(["attention", str(run), "--images=1"]) == 2
    assert main(["attention", str(tmp_path)]) == 2
