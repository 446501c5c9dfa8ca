"""The questions of DigitsQA: wording, right answer, and the digits in the picture.

A maker takes a `random.Random` and returns a `Draft`; `digitsqa_skills.py` says which skill it belongs to. Answers are
drawn evenly, so that nothing is gained by guessing from the words. The makers without a picture ask in words what
others ask of a picture.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RHYMES = ("hero", "sun", "shoe", "tree", "door", "hive", "sticks", "heaven", "gate", "line")
FIGURES = tuple("0123456789")
SIDES = ("left", "right")
PLACE_QUESTIONS = {(2, place): f"Which digit is written on the {name}?" for place, name in enumerate(SIDES)} | {
    (3, 0): "Which digit of this strip is written first?",
    (3, 1): "Which digit of this strip is written in the middle?",
    (3, 2): "Which digit of this strip is written third?",
}
SAID = ("{}.", "It is {}.", "Here we see {}.", "Somebody wrote {}.", "This is {}.", "The note says {}.")
# One in eight wordings of what the text decides belongs to test, one to val, the others to train. The salt is one by
# which every skill has wordings in every split, and every fact some in train.
TEST_SHARE, SALT = 8, 102
CHOICES = 3  # at most

INSTRUMENTS = {
    "thermometer": "temperature",
    "ruler": "length",
    "clock": "time",
    "scale": "mass",
    "barometer": "air pressure",
    "speedometer": "speed",
}
MONEY = {
    "budget": "plans for spending",
    "salary": "pay for work",
    "loan": "money lent for a time",
    "tax": "dues to the state",
    "price": "what a thing costs",
    "saving": "cash kept for later",
}
VOCABULARY = {
    "ancient": "from long ago",
    "rapid": "fast",
    "enormous": "huge in size",
    "silent": "without any sound",
    "fragile": "easy to break",
    "brief": "lasting a short time",
}


@dataclass
class Draft:
    """One question before it has an id: what is asked, what is right, and the parts of its picture."""

    question: str
    choices: list[str]
    answer: str
    solution: str
    hint: str = ""
    digits: list[int] = field(default_factory=list)
    decoration: bool = False

    @property
    def text_decides(self) -> bool:
        """Whether the question can be answered without a picture."""
        return not self.digits


Maker = Callable[[random.Random], Draft]


def home(draft: Draft) -> str | None:
    """The one split that a wording belongs to where the text decides; None where the picture does."""
    if not draft.text_decides:
        return None
    share = hashlib.sha256(f"{SALT}\n{draft.hint}\n{draft.question}".encode()).digest()[0] % TEST_SHARE
    return {0: "test", 1: "val"}.get(share, "train")


def draft_for(split: str, make: Maker, rng: random.Random) -> Draft:
    """Draw until a wording belongs to `split`, and shuffle the choices: a letter says nothing of its answer."""
    draft = make(rng)
    while home(draft) not in (None, split):
        draft = make(rng)
    rng.shuffle(draft.choices)
    return draft


def caption(digits: list[int]) -> str:
    """The words for a picture of one, two or three digits; the only place a picture is put into words."""
    names = [NAMES[digit] for digit in digits]
    if len(names) == 1:
        return f"the digit {names[0]}"
    if len(names) == 2:
        return f"two digits: {names[0]} on the left and {names[1]} on the right"
    return f"three digits: {names[0]}, {names[1]} and {names[2]}"


def _with_others(rng: random.Random, answers, truth: str, count: int = CHOICES) -> list[str]:
    return [truth, *rng.sample([answer for answer in answers if answer != truth], count - 1)]


def one_digit(questions: tuple[str, ...], answer: Callable[[int], str], answers, solution: str = "It is {}.") -> Maker:
    """A question about a single digit; `answers` are all that a choice may be."""

    def make(rng: random.Random) -> Draft:
        digit = rng.randrange(10)
        choices = _with_others(rng, answers, answer(digit), min(CHOICES, len(answers)))
        sentence = solution.format(caption([digit]))
        return Draft(rng.choice(questions), choices, answer(digit), sentence, digits=[digit])

    return make


read_digit = one_digit(("Which digit is written?", "Which digit is shown in the picture?"), str, FIGURES)
read_leaf = one_digit(("Which day is shown on this calendar leaf?",), str, FIGURES, "The leaf shows {}.")
read_door = one_digit(("Which number is shown on this door?",), str, FIGURES, "The door has {}.")
parity = one_digit(("Is the written digit even or odd?",), lambda digit: ("even", "odd")[digit % 2], ("even", "odd"))
spell = one_digit(("Which word spells the written digit?",), NAMES.__getitem__, NAMES)
rhyme = one_digit(("Which word rhymes with the digit shown?",), RHYMES.__getitem__, RHYMES)


def _of_strip(rng: random.Random, places: tuple[int, ...]) -> Draft:
    digits, place = [rng.randrange(10) for _ in range(3)], rng.choice(places)
    answer, solution = str(digits[place]), f"It is {caption(digits)}."
    return Draft(PLACE_QUESTIONS[3, place], _with_others(rng, FIGURES, answer), answer, solution, digits=digits)


def middle_digit(rng: random.Random) -> Draft:
    return _of_strip(rng, (1,))


def end_digit(rng: random.Random) -> Draft:
    return _of_strip(rng, (0, 2))


def _sides(rng: random.Random) -> tuple[list[int], int, str]:
    """Two different digits, the place of the one that is asked for, and what that place is called."""
    side = rng.randrange(2)
    return rng.sample(range(10), 2), side, SIDES[side]


def side_digit(rng: random.Random) -> Draft:
    digits, side, _ = _sides(rng)
    answer, other = str(digits[side]), str(digits[1 - side])
    choices = [answer, other, rng.choice([figure for figure in FIGURES if figure not in (answer, other)])]
    solution = f"It is {caption(digits)}."
    return Draft(PLACE_QUESTIONS[2, side], choices, answer, solution, digits=digits)


def side_parity(rng: random.Random) -> Draft:
    digits, side, name = _sides(rng)
    answer = ("even", "odd")[digits[side] % 2]
    solution = f"It is {caption(digits)}. The one on the {name} is {answer}."
    return Draft(f"Is the digit written on the {name} even or odd?", ["even", "odd"], answer, solution, digits=digits)


def votes(rng: random.Random) -> Draft:
    digits, side, name = _sides(rng)
    team, answer, other = ("red", "blue")[side], str(digits[side]), str(digits[1 - side])
    choices = [answer, other, rng.choice([figure for figure in FIGURES if figure not in (answer, other)])]
    return Draft(
        f"How many votes has the {team} team?",
        choices,
        answer,
        f"The board shows {caption(digits)}. The {team} team has the votes on the {name}.",
        hint="The board shows the votes: red on the left, blue on the right.",
        digits=digits,
    )


def named_digit(rng: random.Random) -> Draft:
    digit, asked = rng.sample(range(10), 2)
    if rng.random() < 0.5:
        asked = digit
    answer, solution = ("yes" if asked == digit else "no"), f"It is {caption([digit])}."
    return Draft(f"Is the written digit {NAMES[asked]}?", ["yes", "no"], answer, solution, digits=[digit])


def calendar_leaf(rng: random.Random) -> Draft:
    digit = rng.randrange(1, 9)
    solution = f"The leaf shows {caption([digit])}. The next day is {digit + 1}."
    question = "Which day comes after the one shown on this calendar leaf?"
    return Draft(question, _with_others(rng, FIGURES[2:], str(digit + 1)), str(digit + 1), solution, digits=[digit])


def house_number(rng: random.Random) -> Draft:
    digit = rng.randrange(1, 9)
    answer = "south" if digit % 2 else "north"
    return Draft(
        "On which side of the street is the house with the number shown?",
        ["north", "south"],
        answer,
        f"The number is {caption([digit])}, so the house is on the {answer} side.",
        hint="Even house numbers are on the north side and odd ones on the south side.",
        digits=[digit],
    )


def letters_in_word(rng: random.Random) -> Draft:
    length = rng.choice((3, 4, 5))
    digit = rng.choice([digit for digit, name in enumerate(NAMES) if len(name) == length])
    solution = f"It is {caption([digit])}. The word {NAMES[digit]} has {length} letters."
    question = "How many letters has the word for the digit shown?"
    return Draft(question, list("345"), str(length), solution, digits=[digit])


def definition(asks: tuple[str, ...], template: str, bank: dict[str, str]) -> Maker:
    def make(rng: random.Random) -> Draft:
        term = rng.choice(list(bank))
        choices = _with_others(rng, bank.values(), bank[term])
        return Draft(rng.choice(asks).format(term), choices, bank[term], template.format(term, bank[term]))

    return make


def in_words(maker: Maker) -> Maker:
    """The same question with the picture put into words: what the text model can learn without eyes."""

    def make(rng: random.Random) -> Draft:
        draft = maker(rng)
        context = rng.choice(SAID).format(caption(draft.digits))
        draft.hint = f"{context[0].upper()}{context[1:]} {draft.hint}".strip()
        draft.question = draft.question.replace("written", "named").replace("shown in the picture", "named here")
        draft.digits = []
        return draft

    return make


def decorated(maker: Maker) -> Maker:
    """The same question beside a picture that has nothing to do with it."""

    def make(rng: random.Random) -> Draft:
        draft = maker(rng)
        draft.decoration = True
        return draft

    return make
