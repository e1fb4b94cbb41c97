"""The demo's SentencePiece vocabulary: a piece for every word of the world, and letters."""

import io
import itertools

from dpt_jax.demo import skills

VOCABULARY_SIZE = 256
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"


def corpus(examples: int = 20_000, seed: int = 0) -> list[str]:
    """Lines of the world's text: inputs and targets of the pretraining mixture."""
    pairs = itertools.islice(skills.mixture("train", seed), examples)
    return [line for example in pairs for line in (example.inputs, example.targets)]


def train_vocabulary(lines: list[str]) -> bytes:
    """A serialized SentencePiece model (pad 0, eos 1, unk 2) of at most 256 pieces.

    Every word of `lines` is one piece. Single letters fill the rest, so that words from outside
    the world have an encoding too.
    """
    import sentencepiece

    words = sorted({word for line in lines for word in line.split()})
    # Inside a made-up word: at the start of one, "a" would be taken for the article.
    letters = "x" + "".join(chr(code) for code in range(ord("a"), ord("z") + 1))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines, letters]),
        model_writer=model,
        # Words and letters are given, so there is nothing left to segment statistically.
        model_type="char",
        vocab_size=VOCABULARY_SIZE,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=[_WORD_START + word for word in words],
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
