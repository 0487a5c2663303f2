"""Prompts for a chat model, made by rule: its answers are text to calibrate it on.

A prompt is a pattern whose {slots} are filled by chance. The kinds are taken in turn, so any few
prompts hold prose, code, numbers, lists, knowledge and several languages.
"""

from __future__ import annotations

import string
from typing import Final

import numpy as np

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "prose": (
        "Write a story about {person} and {thing}.",
        "Describe {place} on a {mood} morning, in long sentences.",
        "Continue this text: {Person} had never cared for {topic}, until one evening in {place}",
        "Write a newspaper article about {topic} in {place}.",
        "Write a letter from {person} to {person} about {thing}.",
        "Write an essay of several paragraphs: what does {topic} mean to {person}?",
        "Write a dialogue between {person} and {person}, who argue about {topic}.",
    ),
    "code": (
        "Write a {language} function that {task}.",
        "Write a {language} program that {task}, with comments, and explain how it works.",
        "Write tests for a {language} function that {task}.",
        "Show a {language} class for {thing}, with three methods and their documentation.",
        "How do I find out in {language} why a function that {task} is slow? Show code.",
    ),
    "numbers": (
        "What is {number} plus {number}? Show each step.",
        "{Person} has {small} coins and gives away {small} per week. How long do they last?",
        "Make a table of {small} rows: year, amount in dollars, change in percent.",
        "Convert {number} seconds to hours, minutes and seconds.",
        "Write {small} dates between {year} and {year} with one event for each.",
    ),
    "knowledge": (
        "What is {topic}, and why does it matter?",
        "Compare {topic} with {topic}.",
        "How would you explain {topic} to {person}?",
        "What happened to {topic} between {year} and {year}?",
        "What are common mistakes about {topic}?",
    ),
    "lists": (
        "Give {small} tips for {person} who wants to learn about {topic}.",
        "Plan a week in {place} for {person}, day by day.",
        "Write a recipe for a {mood} evening, with amounts and steps.",
        'Write a JSON object that describes {thing}, with the keys "name", "parts" and "price".',
        "Summarise what there is to know about {topic}, in Markdown with headings.",
    ),
    "languages": (
        "Schreibe einen kurzen Text über {de}.",
        "Explique {fr} en quelques phrases.",
        "Escribe un cuento sobre {es}.",
        "Scrivi una breve descrizione: {it}.",
        "Escreva um parágrafo sobre {pt}.",
        "Translate into French, German and Spanish: {Person} is looking for {thing} in {place}.",
    ),
}
"""Patterns by kind."""

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "person": (
        "an old sailor", "a young doctor", "my neighbour", "a tired teacher", "two sisters",
        "a child of ten", "the mayor", "a night watchman", "an engineer", "a student of law",
        "a farmer's daughter", "the last guest", "a retired judge", "a violin maker",
    ),
    "thing": (
        "a broken clock", "a bicycle", "a letter without a sender", "a kitchen table",
        "a small boat", "a library card", "an apple tree", "a telescope", "a lost key",
        "a shopping list", "a train ticket", "a weather station", "a box of photographs",
    ),
    "place": (
        "a harbour town", "Vienna", "a mountain village", "the desert", "Nairobi", "a school",
        "an empty station", "Kyoto", "a market hall", "the north of Canada", "a hospital", "Lima",
    ),
    "mood": ("rainy", "cold", "cheerful", "quiet", "hot", "strange", "festive", "grey"),
    "topic": (
        "photosynthesis", "the printing press", "inflation", "black holes", "chess", "antibiotics",
        "the French Revolution", "machine learning", "jazz", "friendship", "earthquakes",
        "democracy", "vaccines", "the water cycle", "prime numbers", "impressionism", "sleep",
        "supply and demand", "volcanoes", "evolution", "contract law", "bread", "electric cars",
        "the Roman Empire", "public transport", "poetry", "nuclear power", "bees", "football",
    ),
    "language": (
        "Python", "Python", "Python", "JavaScript", "C", "Rust", "Java", "SQL", "Bash", "Go",
    ),
    "task": (
        "sorts a list of records by two keys", "counts the words of a file",
        "finds the shortest path in a graph", "checks whether a date is valid",
        "merges two dictionaries", "removes duplicates from a list", "parses a CSV line",
        "draws a triangle of stars", "caches the results of a slow call", "validates an address",
        "computes a moving average", "reverses the words of a sentence",
        "reads settings from a file and reports errors", "searches a sorted array",
        "splits a bill among friends", "converts Roman numerals", "renames many files at once",
    ),
    "de": ("den Winter in den Bergen", "eine Reise mit dem Zug", "gutes Brot", "meine Stadt"),
    "fr": ("la photosynthèse", "l'histoire du vélo", "un voyage en mer", "la démocratie"),
    "es": ("un faro abandonado", "dos amigos y un perro", "el mercado del pueblo", "la lluvia"),
    "it": ("una piazza d'estate", "la cucina di mia nonna", "un treno di notte"),
    "pt": ("o mar e os pescadores", "uma festa na aldeia", "o trabalho e o tempo livre"),
}  # fmt: skip
"""What may stand in a slot; {number}, {small} and {year} are drawn."""

NUMBERS: Final = {"number": (100, 100_000), "small": (3, 40), "year": (1800, 2030)}
"""Range of each slot for a number."""


TRIES: Final = 10
"""How often another prompt is drawn for one that was there already."""


def make_prompts(count: int, seed: int) -> list[str]:
    """Different prompts, as far as the patterns allow it, with the kinds in turn.

    Args:
        count: How many.
        seed: Seeds the choice.
    """
    random = np.random.default_rng(seed)
    kinds = list(KINDS.values())
    found: list[str] = []
    seen: set[str] = set()
    while len(found) < count:
        patterns = kinds[len(found) % len(kinds)]
        for _ in range(TRIES):
            prompt = _filled(patterns[int(random.integers(len(patterns)))], random)
            if prompt not in seen:
                break
        found.append(prompt)
        seen.add(prompt)
    return found


def _filled(pattern: str, random: np.random.Generator) -> str:
    """A pattern with every slot filled; a slot with a capital begins a sentence."""
    parts = []
    for text, slot, _, _ in string.Formatter().parse(pattern):
        parts.append(text)
        if slot is not None:
            parts.append(_drawn(slot, random))
    return "".join(parts)


def _drawn(slot: str, random: np.random.Generator) -> str:
    name = slot.lower()
    if name in NUMBERS:
        return str(random.integers(*NUMBERS[name]))
    choices = SLOTS[name]
    word = choices[int(random.integers(len(choices)))]
    return word if slot == name else word[0].upper() + word[1:]
