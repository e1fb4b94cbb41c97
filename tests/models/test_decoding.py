"""Decoding and scoring against a full recompute, exhaustive search and Hugging Face's T5."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dpt_jax.models import T5Config, Transformer, decoding
from tests.models.random_weights import random_parameters

VOCABULARY, LENGTH = 24, 7
FORMS = {
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "t5_1_1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}
INPUTS = np.asarray([[5, 9, 3, 17, 8, 1], [4, 4, 11, 1, 0, 0], [20, 1, 0, 0, 0, 0]], np.int32)


class Prompt(nn.Module):
    """A prompt that is just its rows."""

    length: int
    embed_dim: int

    @nn.compact
    def __call__(self):
        return self.param("prompt", nn.initializers.normal(1.0), (self.length, self.embed_dim))


def tiny(form="t5_1_0", *, prompt_length=0, seed=2, vocab_size=VOCABULARY, sharpness=30.0):
    """A random T5 whose head is narrower than LENGTH and whose outputs are far from ties."""
    config = T5Config(
        vocab_size=vocab_size,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=2,
        head_dim=6,
        mlp_dim=24,
        **FORMS[form],
    )
    model = Transformer(config, Prompt(prompt_length, 16) if prompt_length else None)
    params = random_parameters(config, seed)
    if prompt_length:
        params["prompt"] = {"prompt": np.random.default_rng(seed).normal(size=(prompt_length, 16))}
    # Large kernels and small embeddings: a tied decoder would otherwise only repeat its input.
    params = jax.tree.map(lambda x: 3 * x if x.ndim == 2 else x, params)
    params["token_embedder"]["embedding"] *= 0.03
    params["decoder"]["decoder_norm"]["scale"] *= sharpness
    return model, params


def jitted(function, model, **static):
    """`function` of (params, inputs, ...), compiled."""
    return jax.jit(functools.partial(function, model, **static))


def next_logprobs(model, params, inputs, prefix):
    """Log-probabilities of the token after `prefix [batch, t]`, everything computed afresh."""
    # One length, so that it compiles once; what stands behind the prefix is not seen.
    behind = 8 - prefix.shape[1] - 1
    decoder_inputs = np.pad(prefix, ((0, 0), (1, behind)), constant_values=((0, 0), (0, 2)))
    logprobs = _all_logprobs(model, params, inputs, decoder_inputs)
    return np.asarray(logprobs[:, prefix.shape[1]])


@functools.partial(jax.jit, static_argnums=0)
def _all_logprobs(model, params, inputs, decoder_inputs):
    # Targets only make masks; ones keep every position visible whatever was decoded.
    targets = jnp.ones_like(decoder_inputs)
    logits = model.apply({"params": params}, inputs, decoder_inputs, targets, enable_dropout=False)
    return jax.nn.log_softmax(logits)


def uncached_greedy(model, params, inputs, length, eos_id):
    """Greedy decoding that runs the whole network anew for every token."""
    tokens = np.zeros((inputs.shape[0], 0), np.int32)
    for _ in range(length):
        best = next_logprobs(model, params, inputs, tokens).argmax(-1)
        best[(tokens == eos_id).any(-1)] = 0
        tokens = np.concatenate([tokens, best[:, None].astype(np.int32)], axis=1)
    return tokens


def logprob_of(model, params, inputs, sequence):
    """Log-probability of one target sequence for a batch of one."""
    total = 0.0
    for i, token in enumerate(sequence):
        prefix = np.asarray([sequence[:i]], np.int32).reshape(1, i)
        total += float(next_logprobs(model, params, inputs, prefix)[0, token])
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "prompt_length", "length"),
    [("t5_1_0", 0, LENGTH), ("t5_1_0", 3, 4), ("t5_1_1", 0, 4), ("t5_1_1", 3, LENGTH)],
)
def test_cached_greedy_equals_uncached_recompute_token_for_token(form, prompt_length, length):
    # 4 positions attend without projected keys and values, 7 (more than head_dim) with.
    model, params = tiny(form, prompt_length=prompt_length)
    decode = jitted(decoding.greedy_decode, model, max_decode_length=length)
    # The end token is one that really occurs within the sequences, for one row before the others.
    free = uncached_greedy(model, params, INPUTS, length, eos_id=-1)
    eos_id = int(free[0, 1])

    assert len(np.unique(free)) > 2
    np.testing.assert_array_equal(decode(params, INPUTS, eos_id=-1), free)
    ended = decode(params, INPUTS, eos_id=eos_id)
    np.testing.assert_array_equal(ended, uncached_greedy(model, params, INPUTS, length, eos_id))
    assert ended.dtype == jnp.int32
    assert (np.asarray(ended)[0, 2:] == 0).all()


@pytest.mark.slow
def test_greedy_stops_as_soon_as_every_sequence_has_ended():
    model, params = tiny()
    free = uncached_greedy(model, params, INPUTS, LENGTH, eos_id=-1)
    twice = np.stack([INPUTS[0], INPUTS[0]])
    decode = jax.jit(functools.partial(decoding._greedy, model, params, twice, 50))

    assert free[0, 0] != free[0, 1]
    assert decode(int(free[0, 0])).index == 1
    assert decode(int(free[0, 1])).index == 2
    assert decode(-1).index == 50


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_beam_search_with_enough_beams_finds_what_exhaustive_search_finds(alpha):
    vocabulary, length = 4, 3
    model, params = tiny(vocab_size=vocabulary, prompt_length=2, sharpness=3.0)
    inputs = np.asarray([[2, 3, 2, 1], [3, 1, 0, 0]], np.int32)
    beams = vocabulary**length
    search = jitted(
        decoding.beam_search,
        model,
        max_decode_length=length,
        beam_size=beams,
        length_penalty=alpha,
    )
    tokens, scores = search(params, inputs)

    others = (0, 2, 3)
    hypotheses = [(*body, 1) for n in range(length) for body in itertools.product(others, repeat=n)]
    for row in range(2):
        expected = sorted(
            (
                (
                    logprob_of(model, params, inputs[row : row + 1], hypothesis)
                    / ((5 + len(hypothesis)) / 6) ** alpha,
                    hypothesis + (0,) * (length - len(hypothesis)),
                )
                for hypothesis in hypotheses
            ),
            reverse=True,
        )
        count = len(expected)
        np.testing.assert_allclose(scores[row, :count], [s for s, _ in expected], atol=1e-4)
        np.testing.assert_array_equal(tokens[row, :count], [t for _, t in expected])
        assert (np.asarray(scores[row, count:]) < -1e6).all()


@pytest.mark.slow
def test_beam_search_with_one_beam_and_no_end_equals_greedy():
    model, params = tiny("t5_1_1", prompt_length=3)
    search = jitted(decoding.beam_search, model, max_decode_length=5, beam_size=1, eos_id=-1)
    tokens, scores = search(params, INPUTS)
    expected = uncached_greedy(model, params, INPUTS, 5, eos_id=-1)
    np.testing.assert_array_equal(tokens[:, 0], expected)
    for row in range(3):
        logprob = logprob_of(model, params, INPUTS[row : row + 1], tuple(expected[row]))
        np.testing.assert_allclose(scores[row, 0], logprob / (10 / 6) ** 0.6, atol=1e-4)


@pytest.mark.slow
def test_beam_search_stops_once_no_live_hypothesis_can_win():
    model, params = tiny(sharpness=60.0)
    certain = int(uncached_greedy(model, params, INPUTS[:1], 1, eos_id=-1)[0, 0])

    search = jax.jit(
        functools.partial(decoding._beam_search, model, params, INPUTS[:1], 50, 1, 0.6)
    )
    assert search(certain).index == 1
    assert search(-1).index == 50


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_scores_of_several_candidates_equal_step_by_step_recompute(form):
    model, params = tiny(form, prompt_length=3)
    candidates = np.asarray(
        [[[7, 1, 0], [3, 12, 1]], [[2, 1, 0], [1, 0, 0]], [[9, 9, 9], [8, 1, 0]]], np.int32
    )
    score = jitted(decoding.score_targets, model)
    scores = np.asarray(score(params, INPUTS, candidates))
    assert scores.shape == (3, 2) and scores.dtype == np.float32
    for row in range(3):
        for candidate in range(2):
            tokens = [int(t) for t in candidates[row, candidate] if t]
            expected = logprob_of(model, params, INPUTS[row : row + 1], tokens)
            np.testing.assert_allclose(scores[row, candidate], expected, rtol=1e-5)
    one_each = score(params, INPUTS, candidates[:, 1])
    np.testing.assert_allclose(one_each, scores[:, 1], rtol=1e-5)


def test_shift_right_puts_the_start_token_in_front_of_every_target():
    shifted = decoding.shift_right(jnp.asarray([[[4, 5, 1], [6, 1, 0]]]))
    np.testing.assert_array_equal(shifted, [[[0, 4, 5], [0, 6, 1]]])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m, p: decoding.greedy_decode(m, p, INPUTS, 0), "max_decode_length is 0"),
        (lambda m, p: decoding.beam_search(m, p, INPUTS, 0, 2), "max_decode_length is 0"),
        (lambda m, p: decoding.beam_search(m, p, INPUTS, 3, 0), "beam_size is 0"),
        (lambda m, p: decoding.beam_search(m, p, INPUTS, 3, 2, -1.0), "length_penalty is -1"),
    ],
)
def test_sizes_out_of_range_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(*tiny())


# Hugging Face


def hugging_face(form, folder):
    """A random tiny T5 of Hugging Face's, saved to `folder` and loaded as ours."""
    torch = pytest.importorskip("torch", reason="Hugging Face's T5 needs torch")
    transformers = pytest.importorskip("transformers", reason="compares with Hugging Face's T5")
    weights = pytest.importorskip("dpt_jax.interop", reason="needs the weight loader")
    old = form == "t5_1_0"
    kind = "UMT5" if form == "umt5" else "T5"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="relu" if old else "gated-gelu",
        tie_word_embeddings=old,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    # Seeds with which beams end within a few tokens.
    torch.manual_seed(9 if kind == "UMT5" else 3)
    theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        # Their own initialization gives nearly the same output for every input.
        for parameter in theirs.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
        theirs.shared.weight.mul_(0.2)
        theirs.decoder.final_layer_norm.weight.mul_(20.0 if old else 2.0)
    theirs.save_pretrained(folder)
    config, params = weights.load_backbone(folder)
    return torch, theirs, Transformer(config), params


def prompted(model, params, prompt):
    return Transformer(model.config, Prompt(*prompt.shape)), dict(params, prompt={"prompt": prompt})


def their_inputs(torch, theirs, inputs, prompt=None):
    """`generate`'s arguments for `inputs`, a prompt in front of their embeddings."""
    tokens = torch.tensor(np.asarray(inputs), dtype=torch.long)
    mask = (tokens > 0).long()
    if prompt is None:
        return {"input_ids": tokens, "attention_mask": mask}
    rows = torch.tensor(prompt).expand(len(tokens), -1, -1)
    return {
        "inputs_embeds": torch.cat([rows, theirs.shared(tokens)], dim=1),
        "attention_mask": torch.cat([torch.ones(rows.shape[:2], dtype=torch.long), mask], dim=1),
    }


def padded(tokens, length):
    """Hugging Face's output without the start token, padded to `length`."""
    tokens = tokens[:, 1:].numpy()
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_prompt", [False, True])
def test_greedy_equals_hugging_face_generate(form, with_prompt, tmp_path):
    torch, theirs, model, params = hugging_face(form, tmp_path)
    prompt = None
    if with_prompt:
        prompt = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
        model, params = prompted(model, params, prompt)
    length = 6
    with torch.no_grad():
        expected = theirs.generate(
            **their_inputs(torch, theirs, INPUTS, prompt),
            max_new_tokens=length,
            num_beams=1,
            do_sample=False,
        )
    ours = jitted(decoding.greedy_decode, model, max_decode_length=length)(params, INPUTS)
    assert len(np.unique(ours)) > 2
    np.testing.assert_array_equal(ours, padded(expected, length))


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("form", [*FORMS, "umt5"])
def test_unpenalized_beams_equal_hugging_face(form, tmp_path):
    torch, theirs, model, params = hugging_face(form, tmp_path)
    length, beams = 6, 4
    # The two penalties differ (T5X's is ((5 + n) / 6)^alpha, theirs n^alpha), except where there
    # is none. Their search stops when it cannot improve, as ours, with early_stopping="never".
    with torch.no_grad():
        expected = theirs.generate(
            **their_inputs(torch, theirs, INPUTS),
            max_new_tokens=length,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=0.0,
            early_stopping="never",
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    search = jitted(
        decoding.beam_search, model, max_decode_length=length, beam_size=beams, length_penalty=0.0
    )
    tokens, scores = map(np.asarray, search(params, INPUTS))
    compared = 0
    for row, (theirs_row, theirs_scores) in enumerate(
        zip(
            padded(expected.sequences, length).reshape(3, beams, length),
            expected.sequences_scores.numpy().reshape(3, beams),
            strict=True,
        )
    ):
        ended = [(t, s) for t, s in zip(theirs_row, theirs_scores, strict=True) if 1 in t]
        for hypothesis, score in ended:
            # Both searches end the hypotheses among the best `beams` continuations; T5X's also
            # those among the next `beams`, which may crowd one of theirs out.
            if score > scores[row, -1]:
                after = np.cumsum(hypothesis == 1) - (hypothesis == 1) > 0
                hypothesis = np.where(after, 0, hypothesis)
                where = np.flatnonzero((tokens[row] == hypothesis).all(-1))
                assert len(where) == 1
                np.testing.assert_allclose(scores[row, where[0]], score, atol=1e-4)
                compared += 1
    assert compared >= 2


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("form", FORMS)
def test_scores_equal_hugging_face_log_probabilities(form, tmp_path):
    torch, theirs, model, params = hugging_face(form, tmp_path)
    targets = np.asarray([[7, 12, 1], [3, 1, 0], [1, 0, 0]], np.int32)
    labels = torch.tensor(np.asarray(targets), dtype=torch.long)
    with torch.no_grad():
        logits = theirs(**their_inputs(torch, theirs, INPUTS), labels=labels).logits
    logprobs = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    expected = (logprobs * (labels > 0)).sum(-1)
    scores = jitted(decoding.score_targets, model)(params, INPUTS, targets)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)
