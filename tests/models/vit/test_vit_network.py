import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax.models.network import fold_prefix
from dpt_jax.models.vit import (
    LayerPrompts,
    VisionTransformer,
    ViTConfig,
    abstract_variables,
)
from dpt_jax.prefixes import DeepSharedPrefix, FreePrefix, SimpleSharedPrefix, as_free
from dpt_jax.prompts import DecomposedPrompt, VanillaPrompt
from tests.support import vits

WIDTH = vits.CONFIG.emb_dim
VANILLA, DECOMPOSED = VanillaPrompt(3, WIDTH), DecomposedPrompt(3, WIDTH, 2)
MODELS = {
    "bare": VisionTransformer(vits.CONFIG),
    "shallow": VisionTransformer(vits.CONFIG, DECOMPOSED),
    "deep": VisionTransformer(vits.CONFIG, LayerPrompts(DECOMPOSED, 2)),
    "deep, shared A": VisionTransformer(vits.CONFIG, LayerPrompts(DECOMPOSED, 2, True)),
    "hidden": VisionTransformer(vits.CONFIG, LayerPrompts(VANILLA, 2), hidden=True),
    "free": VisionTransformer(vits.CONFIG, prefix=FreePrefix(2)),
    "simple": VisionTransformer(vits.CONFIG, prefix=SimpleSharedPrefix(2)),
    "deep share": VisionTransformer(vits.CONFIG, prefix=DeepSharedPrefix(2, hidden_dim=3)),
    "both": VisionTransformer(vits.CONFIG, VANILLA, prefix=SimpleSharedPrefix(2)),
}


def test_vit_b16_has_the_published_number_of_parameters():
    shapes = abstract_variables(VisionTransformer(ViTConfig()))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 85_798_656


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + vits.CONFIG.epsilon) * p["scale"] + p["bias"]
    )


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def reference(images, params, prompts=(), keep=True, prefix=None):
    """The network in NumPy, one image and one head at a time; VPT as its paper describes it."""
    cfg, logits = vits.CONFIG, []
    for image in images:
        rows = []
        for i in range(cfg.grid):
            for j in range(cfg.grid):
                patch = image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                kernel = params["patch_embedding"]["kernel"]
                rows.append(np.tensordot(patch, kernel, 3) + params["patch_embedding"]["bias"])
        x = np.stack([params["cls_token"], *rows]) + params["position_embedding"]
        for number in range(cfg.num_layers):
            if number < len(prompts):
                x = np.concatenate([x[:1], prompts[number], x[-cfg.num_patches :]])
            layer = params["encoder"][f"layers_{number}"]
            y = layer_norm(x, layer["pre_attention_layer_norm"])
            q, k, v = (linear(y, layer["attention"][name]) for name in ("query", "key", "value"))
            heads = []
            for h in range(cfg.num_heads):
                part = slice(h * cfg.head_dim, (h + 1) * cfg.head_dim)
                keys, values = k[:, part], v[:, part]
                if prefix is not None:
                    keys = np.concatenate([prefix["encoder_keys"][number, :, h], keys])
                    values = np.concatenate([prefix["encoder_values"][number, :, h], values])
                scores = q[:, part] @ keys.T / np.sqrt(cfg.head_dim)
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(weights / weights.sum(-1, keepdims=True) @ values)
            x = x + linear(np.concatenate(heads, -1), layer["attention"]["out"])
            y = linear(layer_norm(x, layer["pre_mlp_layer_norm"]), layer["mlp"]["wi"])
            x = x + linear(np.asarray(jax.nn.gelu(y, approximate=False)), layer["mlp"]["wo"])
        cls = layer_norm(x, params["encoder"]["encoder_norm"])[0]
        logits.append(linear(cls, params["head"]))
    return np.stack(logits)


def folded_prompts(name, params):
    """Each layer's prompt, from the parameters by hand."""
    p = params.get("prompt", {})
    if name == "shallow":
        return [p["A"] @ p["B"]]
    if name == "deep":
        return [p[f"layers_{i}"]["A"] @ p[f"layers_{i}"]["B"] for i in range(2)]
    if name == "deep, shared A":
        a, b = p["all_layers"]["A"], p["all_layers"]["B"]
        return [a @ b[:, :WIDTH], a @ b[:, WIDTH:]]
    return [p["prompt"]] if name == "both" else []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "hidden"])
def test_logits_are_those_of_numpy(name):
    model = MODELS[name]
    params = vits.own(model, vits.parameters())
    found = vits.applied(model)(params, vits.images(2))
    prefix = None
    if model.prefix is not None:
        prefix = jax.tree.map(np.asarray, fold_prefix(model, params))
    expected = reference(vits.images(2), params, folded_prompts(name, params), prefix=prefix)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_prefix_goes_through_the_layers_own_norm_and_projections():
    params = vits.own(MODELS["simple"], vits.parameters())
    found = fold_prefix(MODELS["simple"], params)
    layer = params["encoder"]["layers_1"]
    rows = layer_norm(params["prefix"]["encoder_rows"][1], layer["pre_attention_layer_norm"])
    for kind in ("key", "value"):
        expected = linear(rows, layer["attention"][kind]).reshape(2, 4, 4)
        np.testing.assert_allclose(found[f"encoder_{kind}s"][1], expected, atol=1e-5)


def test_a_folded_prefix_gives_the_same_logits():
    model = MODELS["deep share"]
    params = vits.own(model, vits.parameters())
    folded = VisionTransformer(vits.CONFIG, prefix=as_free(model.prefix))
    plain = {**params, "prefix": dict(fold_prefix(model, params))}
    expected = vits.applied(model)(params, vits.images())
    np.testing.assert_allclose(vits.applied(folded)(plain, vits.images()), expected, atol=1e-5)


def test_hidden_prompts_leave_the_tokens_as_they_are_bit_for_bit():
    model = MODELS["hidden"]
    params = vits.own(model, vits.parameters())
    tokens, found = vits.applied(model, "encode")(params, vits.images())
    bare, _ = vits.applied(MODELS["bare"], "encode")(vits.parameters(), vits.images())
    np.testing.assert_array_equal(tokens, bare)
    assert found.shape == (3, 3, WIDTH)


def test_hidden_prompts_are_answered_by_the_tokens_alone():
    """A layer's hidden prompts ask the tokens of that layer; in NumPy, for a ViT of one layer."""
    cfg = dataclasses.replace(vits.CONFIG, num_layers=1)
    model = VisionTransformer(cfg, LayerPrompts(VANILLA, 1), hidden=True)
    params = vits.own(model, vits.parameters(cfg))
    _, found = vits.applied(model, "encode")(params, vits.images(1))
    kernel, image = params["patch_embedding"]["kernel"], vits.images(1)[0]
    rows = [np.tensordot(image[i : i + 4, j : j + 4], kernel, 3) for i in (0, 4) for j in (0, 4)]
    rows = np.stack(rows) + params["patch_embedding"]["bias"]
    x = np.concatenate([params["cls_token"][None], rows]) + params["position_embedding"]
    layer, asking = params["encoder"]["layers_0"], params["prompt"]["layers_0"]["prompt"]
    norm = layer["pre_attention_layer_norm"]
    split = lambda y: y.reshape(-1, 4, 4).swapaxes(0, 1)  # noqa: E731
    keys, values = (
        split(linear(layer_norm(x, norm), layer["attention"][name])) for name in ("key", "value")
    )
    queries = split(linear(layer_norm(asking, norm), layer["attention"]["query"]))
    weights = jax.nn.softmax(queries @ keys.swapaxes(1, 2) / 2)
    y = asking + linear((weights @ values).swapaxes(0, 1).reshape(3, -1), layer["attention"]["out"])
    hidden = linear(layer_norm(y, layer["pre_mlp_layer_norm"]), layer["mlp"]["wi"])
    y = y + linear(np.asarray(jax.nn.gelu(hidden, approximate=False)), layer["mlp"]["wo"])
    expected = layer_norm(y, params["encoder"]["encoder_norm"])
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep, shared A", "hidden", "simple", "deep share"])
def test_gradients_equal_finite_differences(name):
    model = MODELS[name]
    with jax.enable_x64(True):
        wide = vits.own(model, vits.parameters())
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), wide)
        own = {k: wide[k] for k in ("prompt", "prefix", "prompt_head") if k in wide}
        rest = {k: v for k, v in wide.items() if k not in own}

        # Float32 parts of the network (norms, the head) bound what a difference can show.
        def loss(own):
            logits = model.apply({"params": {**rest, **own}}, vits.images(2).astype(np.float64))
            return -jnp.mean(jax.nn.log_softmax(logits)[:, 1])

        loss = jax.jit(loss)
        gradient = jax.jit(jax.grad(loss))(own)
        rng = np.random.default_rng(0)
        along = jax.tree.map(lambda x: rng.normal(size=x.shape), own)
        step = 2e-3
        up, down = (
            loss(jax.tree.map(lambda x, d, s=s: x + s * step * d, own, along)) for s in (1, -1)
        )
        slope = sum(
            float(np.vdot(g, d))
            for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
        )
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize(
    "name, rows",
    [("bare", [5, 1]), ("deep", [5, 1]), ("shallow", [8, 1]), ("both", [8, 1]), ("free", [5, 1])],
)
def test_what_the_logits_do_not_depend_on_is_not_computed(name, rows):
    """Of CLS, 4 patches and 3 prompts, what goes through the MLPs of both layers."""
    model = MODELS[name]
    params = vits.own(model, vits.parameters())
    jaxpr = jax.make_jaxpr(lambda p: model.apply({"params": p}, vits.images(2)))(params)
    products = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    shapes = [e.outvars[0].aval.shape for e in products]
    assert [n for _, n, *width in shapes if width == [vits.CONFIG.mlp_dim]] == rows


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["minimal", "full"])
def test_rematerialization_changes_no_gradient(policy):
    def gradient(config):
        model = VisionTransformer(config, LayerPrompts(VANILLA, 2))
        params = vits.own(model, vits.parameters())

        def loss(params):
            return jnp.sum(jnp.sin(model.apply({"params": params}, vits.images(2))))

        return jax.jit(jax.grad(loss))(params)

    found = gradient(dataclasses.replace(vits.CONFIG, remat_policy=policy))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, gradient(vits.CONFIG)
    )


def test_bfloat16_is_near_float32():
    half = VisionTransformer(dataclasses.replace(vits.CONFIG, dtype="bfloat16"))
    found = vits.applied(half)(vits.parameters(), vits.images())
    exact = vits.applied(MODELS["bare"])(vits.parameters(), vits.images())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.25)


@pytest.mark.slow
def test_dropout_is_of_prompts_alone():
    model = VisionTransformer(vits.CONFIG, VANILLA, prompt_dropout=0.5)
    params = vits.own(model, vits.parameters())

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def logits(model, params, enable):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply({"params": params}, vits.images(), enable, rngs=rngs)

    assert not np.array_equal(logits(model, params, True), logits(model, params, False))
    prefixed = VisionTransformer(vits.CONFIG, prefix=FreePrefix(2), prompt_dropout=0.5)
    own = vits.own(prefixed, vits.parameters())
    same = jnp.repeat(vits.images()[:1], 2, axis=0)
    rngs = {"dropout": jax.random.key(0)}
    one, other = jax.jit(lambda p: prefixed.apply({"params": p}, same, True, rngs=rngs))(own)
    assert not np.array_equal(one, other), "Two images have one draw."
    bare = VisionTransformer(vits.CONFIG, prompt_dropout=0.5)
    off, on = (logits(bare, vits.parameters(), enable) for enable in (False, True))
    np.testing.assert_array_equal(on, off)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_size": 9}, "image_size = 9 is no multiple of patch_size = 4"),
        ({"num_heads": 3}, "emb_dim = 16 is no multiple of num_heads = 3"),
        ({"gelu": "erf"}, "gelu is 'erf'; it must be one of exact, tanh"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dtype": "float16"}, "'float16'; it must be 'float32' or 'bfloat16'. Set --gin.DTYPE"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(vits.CONFIG, **change)
