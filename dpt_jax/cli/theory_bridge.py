"""`dpt theory bridge`: the theory's quantities for a prompt that was trained on the demo's T5.

Relevant tokens are known for one task of the demo: in `demo_wordsense` the pieces of the word that
the two sentences share.
"""

from typing import Any

TASK = "demo_wordsense"
NAME = "bridge"
_ROWS = 200


def measure(config: Any, prompts: dict[str, Any], prepared: Any) -> list[dict[str, Any]]:
    """The rows of the bridge: a dict for every prompt and layer.

    Args:
      config: the run's `RunConfig`.
      prompts: folded prompts `[P, D]` by name, such as the first and the trained one.
      prepared: the run, prepared.

    Raises:
      InputError: when the run's task is another.
    """
    import jax
    import numpy as np

    from dpt_jax.demo import superglue
    from dpt_jax.errors import InputError
    from dpt_jax.theory import attention_maps

    if config.mixture_or_task_name != TASK:
        raise InputError(
            f"The run's task is {config.mixture_or_task_name}; relevant tokens are known for "
            f"{TASK} alone. Name a run of it with --model_dir."
        )
    tokens, relevant, labels = _examples(superglue.rows(TASK, "validation"), prepared.vocabulary)
    valid = tokens > 0
    heads = config.model.num_heads
    rows = []
    for name, prompt in prompts.items():
        params = {**prepared.placed, "prompt": {"prompt": prompt}}
        normed, bias = _encoder_inputs(prepared.folded_model, params, tokens)
        length = len(prompt)
        seen = np.pad(valid, ((0, 0), (length, 0)), constant_values=True)
        for layer, inputs in enumerate(normed):
            kernels = params["encoder"][f"layers_{layer}"]["attention"]
            query, key = (kernels[part]["kernel"] for part in ("query", "key"))
            weights = jax.jit(attention_maps.attention)(inputs, query, key, bias, seen)
            found = attention_maps.relevance(weights, length, relevant, valid)
            row = {"prompt": name, "layer": layer, "relevance": found.tolist()}
            if layer == 0:
                # Only here is a query of the prompt the same for every text.
                text = np.asarray(inputs)[:, length:]
                q = attention_maps.query_directions(inputs[0, :length], query, key, heads)
                other = valid & ~relevant
                context = text[relevant].mean(0) - text[other].mean(0)
                means = (text * valid[..., None]).sum(1) / valid.sum(1)[:, None]
                classes = means[labels == 1].mean(0) - means[labels == 0].mean(0)
                row["cosine_context"] = attention_maps.cosines(q, context).tolist()
                row["cosine_classes"] = attention_maps.cosines(q, classes).tolist()
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> Any:
    """A line for each prompt and layer."""
    import numpy as np

    from dpt_jax.analysis.tables import Table

    lines = []
    for row in rows:
        line = [row["prompt"], f"{row['layer'] + 1}"]
        line += [f"{np.mean(row['relevance']):.2f}", f"{np.max(row['relevance']):.2f}"]
        for name in ("cosine_context", "cosine_classes"):
            line += (
                [f"{np.mean(row[name]):+.3f}", f"{np.abs(row[name]).mean():.3f}"]
                if name in row
                else ["–", "–"]
            )
        lines.append(line)
    header = ["prompt", "layer", "relevance, mean of heads", "largest head"]
    header += ["cosine with context", "absolute", "cosine with classes", "absolute"]
    caption = (
        "Relevance: attention of the prompt's positions to the word asked about, as a share of "
        "that to the text, divided by the word's share of the tokens; 1 is no selection. Cosines "
        "of the first layer's query directions: with the mean relevant token less the mean other "
        "one, and with the difference of the two classes' mean texts."
    )
    return Table(header, lines, 2, caption, [])


def _examples(found: Any, vocabulary: Any) -> tuple[Any, Any, Any]:
    """Tokens `[n, text]`, padded with 0, which of them are the word's pieces, and labels."""
    import numpy as np

    from dpt_jax.demo import superglue

    found = found[:_ROWS]
    texts = [vocabulary.encode(superglue.text_to_text(TASK, row)["inputs"]) for row in found]
    tokens = np.zeros((len(texts), max(map(len, texts)) + 1), np.int32)
    relevant = np.zeros(tokens.shape, bool)
    for i, (row, ids) in enumerate(zip(found, texts, strict=True)):
        tokens[i, : len(ids) + 1] = [*ids, vocabulary.eos_id]
        relevant[i] = np.isin(tokens[i], vocabulary.encode(str(row["word"])))
    return tokens, relevant, np.asarray([row["label"] for row in found])


def _encoder_inputs(model: Any, params: Any, tokens: Any) -> tuple[list[Any], Any]:
    """What each layer's norm gives to attention, and the position bias of all layers."""
    import functools

    import jax

    names = ("pre_attention_layer_norm", "relpos_bias")

    @functools.partial(jax.jit)
    def encode(params, tokens):
        return model.apply(
            {"params": params},
            tokens,
            enable_dropout=False,
            method="encode",
            capture_intermediates=lambda module, _: module.name in names,
        )[1]["intermediates"]["encoder"]

    kept = encode(params, tokens)
    layers = sorted((name for name in kept if name.startswith("layers_")), key=len)
    normed = [kept[name][names[0]]["__call__"][0] for name in layers]
    return normed, kept[names[1]]["__call__"][0]
