"""A prompt trained by `dpt train` on the demo, exported to PEFT: PyTorch's answers are ours."""

import json

import pytest
from flax.traverse_util import flatten_dict

from dpt_jax import demo
from dpt_jax.cli.main import main
from dpt_jax.interop import load_backbone
from dpt_jax.interop.hugging_face import weight_name

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `interop`)")
peft = pytest.importorskip("peft", reason="PEFT is not installed (extra `interop`)")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TASK, TARGETS = "demo_questions", 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    status = main(
        [
            "train",
            "--gin_file=runs/demo.gin",
            "--gin_file=prompts/decomposed_uniform.gin",
            "--gin.PROMPT_LENGTH=20",
            "--gin.BOTTLENECK=4",
            f"--gin.MIXTURE_OR_TASK_NAME={TASK!r}",
            f"--gin.MODEL_DIR='{folder}'",
            "--gin.TRAIN_STEPS=20",
            "--gin.EVAL_PERIOD=20",
        ]
    )
    assert status == 0
    return folder


@pytest.fixture(scope="module")
def t5():
    """The demo's backbone as a model of Hugging Face's."""
    config, params = load_backbone(demo.BACKBONE_DIR)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
    ).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in flatten_dict(params, sep="/").items():
            theirs, transposed = weight_name(name)
            tensor = torch.from_numpy(array.astype("float32"))
            parameters.pop(theirs).copy_(tensor.T if transposed else tensor)
    assert not parameters
    return model


def test_all_predictions_on_the_demos_validation_set_are_the_same(run, t5, tmp_path, capsys):
    import sentencepiece

    adapter = tmp_path / "adapter"
    assert main(["export", f"--model_dir={run}", f"--output={adapter}", "--format=peft"]) == 0
    model = peft.PeftModel.from_pretrained(t5, adapter).eval()
    file = run / "predictions" / f"{TASK}_20.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 400
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(demo.VOCABULARY))

    answers = []
    for i in range(0, len(rows), 100):
        tokens = [[*vocabulary.encode(row["inputs"]), 1] for row in rows[i : i + 100]]
        longest = max(map(len, tokens))
        source = torch.tensor([ids + [0] * (longest - len(ids)) for ids in tokens])
        generated = model.generate(
            input_ids=source,
            attention_mask=(source > 0).long(),
            max_new_tokens=TARGETS,
            do_sample=False,
        )
        for ids in generated[:, 1:].tolist():
            answers.append(vocabulary.decode(ids[: ids.index(1)] if 1 in ids else ids).strip())
    assert answers == [row["prediction"] for row in rows]
    assert len(set(answers)) > 1
