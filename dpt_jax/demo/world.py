"""A small shared text world: its words, its facts, and the split that keeps examples apart.

Everything the demo reads or writes is a sentence of this world: "the rose is old .",
"anna has a kite .", "tom took the coin to the bank .". Words are separated by single spaces,
punctuation included, so that each is one piece of the demo's vocabulary.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

#: Nouns by category; a category's name stands for any of its nouns (a rose is a flower).
CATEGORIES: dict[str, tuple[str, ...]] = {
    "boy": ("tom", "ben", "sam", "max"),
    "girl": ("anna", "mary", "lucy", "emma"),
    "animal": ("dog", "cat", "cow", "horse"),
    "flower": ("rose", "lily", "tulip", "daisy"),
    "fruit": ("pear", "plum", "peach", "melon"),
    "toy": ("ball", "kite", "doll", "drum"),
}
PEOPLE = CATEGORIES["boy"] + CATEGORIES["girl"]
OBJECTS = tuple(noun for name in ("animal", "flower", "fruit", "toy") for noun in CATEGORIES[name])
CATEGORY_OF = {noun: category for category, nouns in CATEGORIES.items() for noun in nouns}

#: Adjectives come in opposites; each pair is one property that a thing can have.
PROPERTIES: tuple[tuple[str, str], ...] = (
    ("big", "small"),
    ("old", "new"),
    ("clean", "dirty"),
    ("wet", "dry"),
    ("hot", "cold"),
    ("fast", "slow"),
    ("loud", "quiet"),
    ("weak", "strong"),
)
OPPOSITE = {a: b for pair in PROPERTIES for a, b in (pair, pair[::-1])}

PLACES = ("school", "home", "work", "sea", "church", "market", "farm", "station")
COLOURS = ("red", "blue", "green", "pink", "gray", "brown", "white", "black")
NUMBERS = ("one", "two", "three", "four")

PLEASANT = ("good", "great", "nice", "lovely")
UNPLEASANT = ("bad", "awful", "ugly", "nasty")

#: Words that give a sentence its topic.
TOPICS: dict[str, tuple[str, ...]] = {
    "money": ("coin", "loan", "wallet", "purse"),
    "water": ("river", "boat", "fish", "lake"),
    "beast": ("wolf", "bird", "tail", "paw"),
    "sport": ("team", "goal", "race", "coach"),
    "music": ("song", "piano", "choir", "flute"),
    "forest": ("leaf", "pine", "moss", "root"),
    "food": ("bread", "soup", "salt", "plate"),
    "machine": ("engine", "wire", "screen", "motor"),
}
#: Words with two senses, each sense belonging to a topic.
SENSES: dict[str, tuple[str, str]] = {
    "bank": ("money", "water"),
    "bat": ("beast", "sport"),
    "bark": ("forest", "beast"),
    "note": ("music", "money"),
    "pitch": ("sport", "music"),
    "chip": ("food", "machine"),
    "mouse": ("machine", "beast"),
    "spring": ("water", "machine"),
    "bass": ("water", "music"),
    "bowl": ("food", "sport"),
    "plant": ("forest", "machine"),
    "mint": ("food", "money"),
}

#: Relations between a person and a value: (statement, question, open question, values).
RELATIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "place": ("{who} is at {what} .", "is {who} at {what} ?", PLACES),
    "thing": ("{who} has a {what} .", "has {who} a {what} ?", OBJECTS),
    "colour": ("{who} likes {what} .", "does {who} like {what} ?", COLOURS),
}

#: Share of the texts that each part gets, in 256ths. The demo's tasks and the backbone's
#: pretraining never see each other's texts, in training or in validation.
PARTITION: dict[str, range] = {
    "pretrain_train": range(0, 152),
    "pretrain_validation": range(152, 176),
    "task_train": range(176, 224),
    "task_validation": range(224, 256),
}


def part_of(sentences: Sequence[str]) -> str:
    """The part of `PARTITION` that a text belongs to, whatever the order of its sentences.

    The same text gives the same part in every process and on every machine (BLAKE2 of the
    sorted sentences), so the parts are disjoint without keeping any list of examples.
    """
    digest = hashlib.blake2b("\n".join(sorted(sentences)).encode(), digest_size=1).digest()
    return next(part for part, shares in PARTITION.items() if digest[0] in shares)


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """One item, uniformly. Uses `rng.random()` alone, the only stream Python keeps stable."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    """The items in random order (from `rng.random()` alone, as `pick`)."""
    keyed = sorted((rng.random(), position) for position in range(len(items)))
    return [items[position] for _, position in keyed]


def property_fact(noun: str, adjective: str, *, negated: bool = False) -> str:
    """A statement such as "the rose is not old ."; a person's name takes no article."""
    subject = noun if noun in PEOPLE else f"the {noun}"
    return f"{subject} is not {adjective} ." if negated else f"{subject} is {adjective} ."


def relation_fact(relation: str, who: str, what: str) -> str:
    """A statement such as "anna has a kite ."."""
    return RELATIONS[relation][0].format(who=who, what=what)


def relation_question(relation: str, who: str, what: str) -> str:
    """A yes/no question such as "has anna a kite ?"."""
    return RELATIONS[relation][1].format(who=who, what=what)
