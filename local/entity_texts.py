"""Sentences with named entities, made from templates that Faker fills: reports, and chat messages.

Nothing here is real. The two styles share their kinds of entities and little else, so that a model of the one has
something to learn from people about the other.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from faker import Faker

from reviewloop.text_keys import content_key, uniform_draw

Style = Literal["report", "chat", "new chat"]

LABELS = ("person", "organization", "place", "product")

_PRODUCTS = (
    *(
        "Aurora 3 phone",
        "Pebble kettle",
        "Nimbus router",
        "Vista 40 monitor",
        "Breeze fan",
        "Lumen lamp",
        "Orbit watch",
    ),
    *("Trail 9 backpack", "Quartz blender", "Sonic 2 toothbrush", "Harbor speaker", "Delta drone", "Mesa e-reader"),
    *("Ember heater", "Polar fridge", "Falcon headset", "Tundra tent", "Coral keyboard", "Prism projector"),
)

_TEMPLATES: dict[Style, tuple[str, ...]] = {
    "report": (
        "{organization} announced on Monday that {person} will lead its office in {place}.",
        "According to {person}, a spokesperson for {organization}, the {product} will be sold from next spring.",
        "The {product}, made by {organization}, was recalled after complaints in {place}.",
        "{person} and {person} founded {organization} in {place} eleven years ago.",
        "In {place}, shares of {organization} fell by four percent in early trading.",
        "{person}, who joined {organization} from {organization}, declined to comment.",
        "Customers in {place} and {place} received the {product} with a delay of three weeks.",
        "The court in {place} ruled that {organization} had to compensate {person}.",
        "{organization} has sold more than two million units of the {product} worldwide.",
        "The annual report of {organization}, signed by {person}, shows a modest profit.",
        "A fire damaged the warehouse in {place}; nobody was injured.",
        "The committee will meet again in the first week of June to discuss the budget.",
        "Analysts at {organization} expect the market to recover by the end of the year.",
        "{person} was born in {place} and studied engineering.",
    ),
    "chat": (
        "hey {first} here, my {product} never showed up 😡",
        "can u ask {first} from {brand} to ring me back pls",
        "yo is the {product} in stock in {town} or nah",
        "{brand} sux, waited 2 hrs in the {town} store",
        "omg {first} was sooo helpful ty {brand} ❤️",
        "moved to {town} last wk, pls change my adress",
        "my {product} died after 3 days lol. refund??",
        "spoke 2 {first} yesterday, she said {brand} wud send a new {product}",
        "still waiting......",
        "thx {first} 👍",
        "does {brand} deliver 2 {town}? asking 4 my mum",
        "hi its {first} again, order 88121, {product}, wrong colour",
        "no1 picks up at {brand} {town} ffs",
        "ok cool, will do",
        "tell {first} i said thx, {product} works gr8 now",
        "{town} ppl where do u get ur {product} fixed",
    ),
    "new chat": (
        "who's {first} n why does {brand} keep texting me",
        "got the {product} 2day, box was open wtf",
        "any {brand} shops near {town} open l8?",
        "{first}?? u there? need help w my {product}",
        "u guys r the best, gonna tell every1 in {town} 😂",
        "nvm fixed it",
        "{brand} said 5 days, its been 12, cmon {first}",
        "swap my {product} 4 another one pls, im in {town} till fri",
    ),
}
"""``new chat`` looks like ``chat``, in words that no other text has."""

_FIELD = re.compile(r"\{(\w+)\}")
_LABEL_OF = {"first": "person", "brand": "organization", "town": "place"}


@dataclass(frozen=True, slots=True)
class EntityText:
    """A text and its true entities, as token-classification labels them."""

    text: str
    label: list[dict[str, Any]]


def generate_texts(styles: Sequence[Style], count: int, seed: int) -> list[EntityText]:
    """``count`` different texts, drawn from the templates of all ``styles``; the same for the same seed."""
    faker = Faker("en_US")
    faker.seed_instance(seed)
    chance = random.Random(seed)
    templates = [template for style in styles for template in _TEMPLATES[style]]
    texts: dict[str, EntityText] = {}
    draws = 0
    while len(texts) < count:
        template = templates[draws % len(templates)]
        draws += 1
        made = _fill(template, faker, chance)
        # The templates without entities give one text each, and run out.
        texts.setdefault(content_key(made.text), made)
    return list(texts.values())


def answer_with_errors(truth: EntityText, reviewer: int, error_rate: float) -> list[dict[str, Any]]:
    """What a simulated reviewer answers: the truth, but at ``error_rate`` of the texts with a mistake.

    The mistakes of people: an entity overlooked, given another label, or marked a word short. The same reviewer
    always answers the same to a text, and different reviewers err independently.
    """
    key = content_key(truth.text)
    if not truth.label or uniform_draw(key, f"errs {reviewer}") >= error_rate:
        return truth.label
    entities = [dict(entity) for entity in truth.label]
    wrong = entities[int(uniform_draw(key, f"entity {reviewer}") * len(entities))]
    mistake = uniform_draw(key, f"mistake {reviewer}")
    words = truth.text[wrong["start"] : wrong["end"]].split(" ")
    if mistake < 1 / 3:
        entities.remove(wrong)
    elif mistake < 2 / 3 or len(words) == 1:
        others = [label for label in LABELS if label != wrong["label"]]
        wrong["label"] = others[int(uniform_draw(key, f"label {reviewer}") * len(others))]
    else:
        wrong["end"] -= len(words[-1]) + 1
    return entities


def _fill(template: str, faker: Faker, chance: random.Random) -> EntityText:
    text, entities, position = "", [], 0
    for field in _FIELD.finditer(template):
        text += template[position : field.start()]
        value = _value(field[1], faker, chance)
        entities.append({"start": len(text), "end": len(text) + len(value), "label": _LABEL_OF.get(field[1], field[1])})
        text += value
        position = field.end()
    return EntityText(text + template[position:], entities)


def _value(field: str, faker: Faker, chance: random.Random) -> str:
    match field:
        case "person":
            return str(faker.name())
        case "organization":
            return str(faker.company())
        case "place":
            return str(faker.city())
        case "first":
            return str(faker.first_name()).lower()
        case "brand":
            return str(faker.last_name()).lower() + chance.choice(("", "", " mart", "4u", " online"))
        case "town":
            return str(faker.city()).lower()
        case _:
            product = chance.choice(_PRODUCTS)
            return product if field == "product" and chance.random() < 0.5 else product.lower()
