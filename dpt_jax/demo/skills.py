"""The pretraining mixture: many skills over the same texts, told apart by an instruction.

An input is `instruction : body`. The instruction names the skill in one or two paraphrases and,
where the answer is a label, says which words to answer with: a set that belongs to the skill,
shuffled ("no yes maybe"), or sometimes a mapping to arbitrary words ("map yes kite no rose"), so
that the backbone learns that the words of an answer are the instruction's to choose. Several
skills share each body, so that the body alone never says what is wanted.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dpt_jax.demo import scenes, world
from dpt_jax.demo.world import pick, shuffled


class Example(NamedTuple):
    """One text-to-text pair and the skill it exercises."""

    skill: str
    inputs: str
    targets: str


#: The words that the demo's tasks answer with. Pretraining reads and writes them (in lists to
#: copy, and as arbitrary answers elsewhere), but never as the answer of the skill they serve.
TASK_LABELS: dict[str, tuple[str, ...]] = {
    "entailment": ("supported", "refuted", "open"),
    "question": ("indeed", "never"),
    "word_sense": ("alike", "apart"),
}

#: Share of a skill's examples that name their answers by a mapping to arbitrary words. The
#: skills that compare texts do not learn it in reasonable time on top of the comparison.
_MAPPED_SHARE = {"sentiment": 0.4}

_ANSWERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "entailment": (("yes", "no", "maybe"), ("true", "false", "unknown")),
    "question": (("yes", "no"), ("true", "false")),
    "word_sense": (("same", "different"), ("yes", "no")),
    "relation": (("same", "opposite", "different"),),
    "pair": (("same", "different"), ("yes", "no")),
    "sentiment": (("positive", "negative"), ("yes", "no")),
}

_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "entailment": ("judge the hypothesis", "does it follow", "is it implied"),
    "state": ("how is it", "describe it"),
    "referent": ("who is meant", "name the thing"),
    "relation": ("compare the fact", "does it reverse"),
    "question": ("answer the question", "is it so"),
    "value": ("give the fact", "what is it"),
    "owner": ("who fits", "name the person"),
    "word_sense": ("compare the word", "does it agree"),
    "topic_one": ("topic of one", "sense in one"),
    "topic_two": ("topic of two", "sense in two"),
    "pair": ("compare the group", "does the kind agree"),
    "copy": ("copy it", "repeat all"),
    "reverse": ("reverse it", "go backwards"),
    "first": ("first word", "start word"),
    "last": ("last word", "end word"),
    "count": ("count all", "how many"),
    "sentiment": ("judge the tone", "is it nice"),
    "opposite": ("opposite word", "reverse the fact"),
    "category": ("what kind", "name the group"),
    "denoise": ("fill the blank", "missing word"),
}

_LIST_WORDS = tuple(
    dict.fromkeys(
        (*world.PEOPLE, *world.OBJECTS, *world.OPPOSITE, *world.PLACES, *world.COLOURS)
        + tuple(cue for cues in world.TOPICS.values() for cue in cues)
        + tuple(world.SENSES)
        + tuple(word for words in TASK_LABELS.values() for word in words)
    )
)


def instruct(rng: random.Random, skill: str, *answers: str) -> str:
    """An instruction for `skill`: one or two of its paraphrases, then the words to answer with."""
    phrases = shuffled(rng, _PARAPHRASES[skill])[: 2 if rng.random() < 0.2 else 1]
    return " ".join((*phrases, *answers, ":"))


def _labelled(rng: random.Random, skill: str, body: str, label: int) -> Example:
    """An example of a classification skill, with the answers it may give in its instruction."""
    answers = pick(rng, _ANSWERS[skill])
    if rng.random() < _MAPPED_SHARE.get(skill, 0.0):
        words = shuffled(rng, _LIST_WORDS)[: len(answers)]
        pairs = shuffled(rng, [f"{a} {w}" for a, w in zip(answers, words, strict=True)])
        return Example(skill, f"{instruct(rng, skill, 'map', *pairs)} {body}", words[label])
    return Example(skill, f"{instruct(rng, skill, *shuffled(rng, answers))} {body}", answers[label])


def _open(rng: random.Random, skill: str, body: str, answer: str) -> Example:
    return Example(skill, f"{instruct(rng, skill)} {body}", answer)


def entailment_body(scene: scenes.Entailment) -> str:
    """An entailment's input text, without an instruction."""
    return f"premise {scene.premise} hypothesis {scene.hypothesis}"


def question_body(scene: scenes.Question) -> str:
    """A question's input text, without an instruction."""
    return f"passage {scene.passage} question {scene.question}"


def word_sense_body(scene: scenes.WordSense) -> str:
    """A word in two sentences as input text, without an instruction."""
    return f"one {scene.sentence1} two {scene.sentence2} word {scene.word}"


def _entailment(rng: random.Random, part: str) -> Example:
    scene = scenes.entailment(rng, part)
    label = scenes.ENTAILMENT_LABELS.index(scene.label)
    return _labelled(rng, "entailment", entailment_body(scene), label)


def _state(rng: random.Random, part: str) -> Example:
    scene = scenes.entailment(rng, part)
    return _open(rng, "state", entailment_body(scene), scene.state)


def _referent(rng: random.Random, part: str) -> Example:
    scene = scenes.entailment(rng, part)
    return _open(rng, "referent", entailment_body(scene), scene.referent)


def _relation(rng: random.Random, part: str) -> Example:
    """Whether the hypothesis' adjective repeats or reverses the fact it is about, "not" aside."""
    scene = scenes.entailment(rng, part)
    adjective = scene.hypothesis.split()[-2]
    related = {scene.state: 0, world.OPPOSITE[scene.state]: 1}
    return _labelled(rng, "relation", entailment_body(scene), related.get(adjective, 2))


def _question(rng: random.Random, part: str) -> Example:
    scene = scenes.question(rng, part)
    return _labelled(rng, "question", question_body(scene), 0 if scene.label else 1)


def _value(rng: random.Random, part: str) -> Example:
    scene = scenes.question(rng, part)
    return _open(rng, "value", question_body(scene), scene.value)


def _owner(rng: random.Random, part: str) -> Example:
    scene = scenes.question(rng, part)
    return _open(rng, "owner", question_body(scene), scene.owner)


def _word_sense(rng: random.Random, part: str) -> Example:
    scene = scenes.word_sense(rng, part)
    return _labelled(rng, "word_sense", word_sense_body(scene), 0 if scene.label else 1)


def _topic_one(rng: random.Random, part: str) -> Example:
    scene = scenes.word_sense(rng, part)
    return _open(rng, "topic_one", word_sense_body(scene), scene.topic1)


def _topic_two(rng: random.Random, part: str) -> Example:
    scene = scenes.word_sense(rng, part)
    return _open(rng, "topic_two", word_sense_body(scene), scene.topic2)


def _pair(rng: random.Random, part: str) -> Example:
    """Whether two words belong to the same topic."""
    label = int(rng.random() * 2)

    def draw() -> list[str]:
        topic1, topic2 = shuffled(rng, tuple(world.TOPICS))[:2]
        words = shuffled(rng, world.TOPICS[topic1])
        second = pick(rng, world.TOPICS[topic2]) if label else words[1]
        return [f"{words[0]} {second}"]

    return _labelled(rng, "pair", f"words {_text(rng, part, draw)[0]}", label)


def _text(rng: random.Random, part: str, draw: Callable[[], list[str]]) -> list[str]:
    """Draws until a text falls into `part`."""
    while True:
        sentences = draw()
        if world.part_of(sentences) == part:
            return sentences


def _list_skill(skill: str) -> Callable[[random.Random, str], Example]:
    answer: dict[str, Callable[[list[str]], str]] = {
        "copy": " ".join,
        "reverse": lambda words: " ".join(words[::-1]),
        "first": lambda words: words[0],
        "last": lambda words: words[-1],
        "count": lambda words: world.NUMBERS[len(words) - 1],
    }

    def example(rng: random.Random, part: str) -> Example:
        def draw() -> list[str]:
            length = 1 + int(rng.random() * len(world.NUMBERS))
            return [" ".join(pick(rng, _LIST_WORDS) for _ in range(length))]

        body = _text(rng, part, draw)[0]
        return _open(rng, skill, f"words {body}", answer[skill](body.split()))

    return example


def _sentiment(rng: random.Random, part: str) -> Example:
    label = int(rng.random() * 2)
    adjectives = (world.PLEASANT, world.UNPLEASANT)[label]
    nouns = world.PEOPLE + world.OBJECTS

    def draw() -> list[str]:
        facts = [
            world.property_fact(pick(rng, nouns), pick(rng, adjectives)),
            world.property_fact(pick(rng, nouns), pick(rng, pick(rng, world.PROPERTIES))),
        ]
        return [" ".join(shuffled(rng, facts))]

    return _labelled(rng, "sentiment", f"text {_text(rng, part, draw)[0]}", label)


def _single_fact(rng: random.Random, part: str) -> tuple[str, str, str]:
    while True:
        noun = pick(rng, world.PEOPLE + world.OBJECTS)
        adjective = pick(rng, tuple(world.OPPOSITE))
        fact = world.property_fact(noun, adjective)
        if world.part_of([fact]) == part:
            return noun, adjective, fact


def _opposite(rng: random.Random, part: str) -> Example:
    _, adjective, fact = _single_fact(rng, part)
    return _open(rng, "opposite", f"text {fact}", world.OPPOSITE[adjective])


def _category(rng: random.Random, part: str) -> Example:
    noun, _, fact = _single_fact(rng, part)
    return _open(rng, "category", f"text {fact}", world.CATEGORY_OF[noun])


def _denoise(rng: random.Random, part: str) -> Example:
    """A masked verb of one fact, or any masked word of a fact from a passage given whole."""
    if rng.random() < 0.5:
        words = _single_fact(rng, part)[2].split()
        position, context = words.index("is"), ""
    else:
        if rng.random() < 0.5:
            passage = scenes.question(rng, part).passage
        else:
            passage = scenes.entailment(rng, part).premise
        words = [*pick(rng, passage.removesuffix(" .").split(" . ")).split(), "."]
        position, context = int(rng.random() * (len(words) - 1)), f"{passage} "
    masked = [*words[:position], "blank", *words[position + 1 :]]
    return _open(rng, "denoise", f"text {context}{' '.join(masked)}", words[position])


_GENERATORS: dict[str, tuple[float, Callable[[random.Random, str], Example]]] = {
    "entailment": (5, _entailment),
    "relation": (3, _relation),
    "state": (1.5, _state),
    "referent": (1, _referent),
    "question": (4, _question),
    "value": (1.5, _value),
    "owner": (1.5, _owner),
    "word_sense": (5, _word_sense),
    "topic_one": (1.2, _topic_one),
    "topic_two": (1.2, _topic_two),
    "pair": (2.5, _pair),
    "copy": (0.7, _list_skill("copy")),
    "reverse": (0.7, _list_skill("reverse")),
    "first": (0.3, _list_skill("first")),
    "last": (0.3, _list_skill("last")),
    "count": (0.4, _list_skill("count")),
    "sentiment": (1.2, _sentiment),
    "opposite": (0.6, _opposite),
    "category": (0.6, _category),
    "denoise": (0.7, _denoise),
}
SKILLS = tuple(_GENERATORS)


def skill_examples(skill: str, split: str, seed: int) -> Iterator[Example]:
    """Endless examples of one skill from `split` ("train" or "validation"), fixed by the seed."""
    rng = random.Random(f"{seed} {split} {skill}")
    generate = _GENERATORS[skill][1]
    while True:
        yield generate(rng, f"pretrain_{split}")


def mixture(split: str, seed: int) -> Iterator[Example]:
    """Endless examples of all skills in their pretraining proportions, fixed by the seed."""
    rng = random.Random(f"{seed} {split}")
    names = tuple(_GENERATORS)
    weights = [_GENERATORS[name][0] for name in names]
    streams = [skill_examples(name, split, seed) for name in names]
    # A thousand slots stand for the weights: drawing one costs a single random number.
    slots = [
        i for i, weight in enumerate(weights) for _ in range(round(1000 * weight / sum(weights)))
    ]
    while True:
        yield next(streams[pick(rng, slots)])
