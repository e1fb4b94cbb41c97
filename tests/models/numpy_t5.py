"""T5 with prefixes in NumPy and float64: one row at a time, keys and values concatenated.

The independent side of the prefix tests. `prefix` holds `<stack>_keys` and `<stack>_values`, each
`[layers, N, heads, head_dim]`, and layers beyond the first so many have none.
"""

import math

import numpy as np


def logits(config, params, source, decoder_input, prefix, in_front=False):
    """Logits `[target, vocabulary]` of one row without padding; T5 1.1's form."""
    t5 = _Row(config, params, prefix, in_front)
    return t5.decode(t5.encode(source), decoder_input)


def prefix_mass(config, params, source, decoder_input, prefix):
    """The attention weights' sum over the prefix, `[layers, queries, heads]` of each stack."""
    t5 = _Row(config, params, prefix, False)
    t5.decode(t5.encode(source), decoder_input)
    stacks: dict[str, list] = {}
    for (stack, _), mass in t5.masses.items():
        stacks.setdefault(stack, []).append(mass)
    return {stack: np.array(layers) for stack, layers in stacks.items()}


class _Row:
    def __init__(self, config, params, prefix, in_front):
        self.config, self.params, self.prefix, self.in_front = config, params, prefix, in_front
        self.masses = {}

    def encode(self, tokens):
        params = self.params["encoder"]
        x = _table(self.params)[tokens]
        for i in range(self.config.num_encoder_layers):
            layer = params[f"layers_{i}"]
            y = _norm(x, layer["pre_attention_layer_norm"])
            bias = self.bias(params, len(x), bidirectional=True)
            x = x + self.attend(layer["attention"], y, y, bias, "encoder", i)
            x = x + _mlp(_norm(x, layer["pre_mlp_layer_norm"]), layer["mlp"])
        return _norm(x, params["encoder_norm"])

    def decode(self, encoded, tokens):
        params = self.params["decoder"]
        x = _table(self.params)[tokens]
        for i in range(self.config.num_decoder_layers):
            layer = params[f"layers_{i}"]
            y = _norm(x, layer["pre_self_attention_layer_norm"])
            bias = self.bias(params, len(x), bidirectional=False)
            x = x + self.attend(layer["self_attention"], y, y, bias, "decoder", i)
            y = _norm(x, layer["pre_cross_attention_layer_norm"])
            x = x + self.attend(layer["encoder_decoder_attention"], y, encoded, None, "cross", i)
            x = x + _mlp(_norm(x, layer["pre_mlp_layer_norm"]), layer["mlp"])
        return _norm(x, params["decoder_norm"]) @ params["logits_dense"]["kernel"]

    def bias(self, params, length, bidirectional):
        """Position bias and causal mask as a function of query and key positions."""
        table = np.asarray(params["relpos_bias"]["rel_embedding"], np.float64)

        def of(head, query, key):
            if key < 0 and not self.in_front:
                return 0.0
            if key > query and not bidirectional:
                return -np.inf
            return table[head, _bucket(key - query, bidirectional)]

        return of

    def attend(self, weights, x, memory, bias, stack, layer):
        heads, width = self.config.num_heads, self.config.head_dim
        keys = (memory @ weights["key"]["kernel"]).reshape(-1, heads, width)
        values = (memory @ weights["value"]["kernel"]).reshape(-1, heads, width)
        queries = (x @ weights["query"]["kernel"]).reshape(-1, heads, width)
        in_front = 0
        if f"{stack}_keys" in self.prefix and layer < len(self.prefix[f"{stack}_keys"]):
            keys = np.concatenate([self.prefix[f"{stack}_keys"][layer], keys])
            values = np.concatenate([self.prefix[f"{stack}_values"][layer], values])
            in_front = self.prefix[f"{stack}_keys"].shape[1]
            self.masses[stack, layer] = np.empty(queries.shape[:2])
        mixed = np.empty_like(queries)
        for q in range(len(queries)):
            for h in range(heads):
                scores = keys[:, h] @ queries[q, h]
                if bias is not None:
                    scores += [bias(h, q, k - in_front) for k in range(len(keys))]
                weight = np.exp(scores - scores.max())
                if in_front:
                    self.masses[stack, layer][q, h] = weight[:in_front].sum() / weight.sum()
                mixed[q, h] = weight @ values[:, h] / weight.sum()
        return mixed.reshape(len(x), -1) @ weights["out"]["kernel"]


def _table(params):
    return np.asarray(params["token_embedder"]["embedding"], np.float64)


def _norm(x, params):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * params["scale"]


def _mlp(x, params):
    gate = x @ params["wi_0"]["kernel"]
    cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    return (0.5 * gate * (1 + np.tanh(cubic)) * (x @ params["wi_1"]["kernel"])) @ params["wo"][
        "kernel"
    ]


def _bucket(relative, bidirectional):
    """Raffel et al. (2020), section 2.1: 32 buckets, exact for short distances."""
    buckets, first = 32, 0
    if bidirectional:
        buckets = 16
        first = 16 if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    far = exact + int(math.log(distance / exact) / math.log(128 / exact) * (buckets - exact))
    return first + min(far, buckets - 1)
