"""Scenes: the situations that both pretraining skills and the demo's tasks ask about.

A scene holds the text and every intermediate answer. Each generator draws the label first and
everything else independently of it, as far as the label allows, so that no single surface cue
(a word, an overlap, a length, a position, the hypothesis alone) tells the label.
"""

import dataclasses
import random

from dpt_jax.demo import world
from dpt_jax.demo.world import pick


@dataclasses.dataclass(frozen=True)
class Entailment:
    """Two facts and a claim about one of the two subjects (CommitmentBank's shape)."""

    premise: str
    hypothesis: str
    label: str  # "entailment", "contradiction" or "neutral"
    referent: str  # the premise's noun that the hypothesis speaks of
    state: str  # what the premise says of it


@dataclasses.dataclass(frozen=True)
class Question:
    """Three facts and a yes/no question about one of them (BoolQ's shape)."""

    passage: str
    question: str
    label: bool
    value: str  # what is true of the person asked about
    owner: str  # the person for whom the value asked about is true


@dataclasses.dataclass(frozen=True)
class WordSense:
    """Two sentences that share a word of two senses (WiC's shape)."""

    sentence1: str
    sentence2: str
    word: str
    label: bool  # the same sense in both
    topic1: str
    topic2: str


ENTAILMENT_LABELS = ("entailment", "contradiction", "neutral")


def entailment(rng: random.Random, part: str, label: str | None = None) -> Entailment:
    """An `Entailment` whose premise lies in `part`.

    The hypothesis always speaks of a subject and a property of the premise. It is neutral when
    the premise gives that property to the other subject; otherwise opposite and negation
    together decide. The subject is named by its noun or by its category.
    """
    label = label or pick(rng, ENTAILMENT_LABELS)
    while True:
        categories = world.shuffled(rng, tuple(world.CATEGORIES))[:2]
        nouns = [pick(rng, world.CATEGORIES[category]) for category in categories]
        properties = world.shuffled(rng, world.PROPERTIES)[:2]
        states = [pick(rng, pair) for pair in properties]
        facts = [world.property_fact(*fact) for fact in zip(nouns, states, strict=True)]
        if world.part_of(facts) == part:
            break
    about = int(rng.random() * 2)
    source = 1 - about if label == "neutral" else about
    opposite, negated = rng.random() < 0.5, rng.random() < 0.5
    if label != "neutral":
        negated = opposite == (label == "entailment")
    adjective = world.OPPOSITE[states[source]] if opposite else states[source]
    subject = categories[about] if rng.random() < 0.5 else nouns[about]
    return Entailment(
        premise=" ".join(facts),
        hypothesis=world.property_fact(subject, adjective, negated=negated),
        label=label,
        referent=nouns[about],
        state=states[about],
    )


def question(rng: random.Random, part: str, label: bool | None = None) -> Question:
    """A `Question` whose passage lies in `part`.

    Two facts share a relation; the question takes its person from one and its value from
    either, so that a false question is as much at home in the passage as a true one.
    """
    label = rng.random() < 0.5 if label is None else label
    while True:
        relation, other = world.shuffled(rng, tuple(world.RELATIONS))[:2]
        people = world.shuffled(rng, world.PEOPLE)[:3]
        values = world.shuffled(rng, world.RELATIONS[relation][2])[:2]
        facts = [
            world.relation_fact(relation, people[0], values[0]),
            world.relation_fact(relation, people[1], values[1]),
            world.relation_fact(other, pick(rng, people), pick(rng, world.RELATIONS[other][2])),
        ]
        if world.part_of(facts) == part:
            break
    about = int(rng.random() * 2)
    source = about if label else 1 - about
    return Question(
        passage=" ".join(world.shuffled(rng, facts)),
        question=world.relation_question(relation, people[about], values[source]),
        label=label,
        value=values[about],
        owner=people[source],
    )


_SENTENCES = (
    "the {word} was by the {cue} .",
    "the {cue} was near the {word} .",
    "{name} saw the {word} and the {cue} .",
    "{name} took the {cue} to the {word} .",
    "{name} had the {word} with the {cue} .",
)


def sense_sentence(rng: random.Random, part: str, word: str, topic: str) -> tuple[str, str]:
    """A sentence of `part` that uses `word` in the sense of `topic`, and its cue word."""
    while True:
        cue = pick(rng, world.TOPICS[topic])
        template = pick(rng, _SENTENCES)
        sentence = template.format(word=word, cue=cue, name=pick(rng, world.PEOPLE))
        if world.part_of([sentence]) == part:
            return sentence, cue


def word_sense(rng: random.Random, part: str, label: bool | None = None) -> WordSense:
    """A `WordSense` both of whose sentences lie in `part`; their cue words always differ."""
    label = rng.random() < 0.5 if label is None else label
    while True:
        word = pick(rng, tuple(world.SENSES))
        topic1, topic2 = world.shuffled(rng, world.SENSES[word])
        topic2 = topic1 if label else topic2
        sentence1, cue1 = sense_sentence(rng, part, word, topic1)
        sentence2, cue2 = sense_sentence(rng, part, word, topic2)
        if cue1 != cue2:
            return WordSense(sentence1, sentence2, word, label, topic1, topic2)
