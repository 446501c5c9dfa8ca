"""The questions of DigitsQA: what is asked, what is right, which digits the picture shows, and of which skill it is.

A maker takes a `random.Random` and returns a `Draft`. Number choices stand in order, as ScienceQA's do. The skills
without a picture ask in words what others ask of a picture, so that a text model can learn the asking before it can
see.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RHYMES = ("hero", "sun", "shoe", "tree", "door", "hive", "sticks", "heaven", "gate", "line")
PLACES = ("first", "second", "third")
TURNABLE = (2, 3, 4, 5, 7)  # upside down, 0, 1, 6, 8 and 9 look like a digit the right way up

INSTRUMENTS = {
    "thermometer": "temperature",
    "ruler": "length",
    "clock": "time",
    "scale": "mass",
    "barometer": "air pressure",
    "speedometer": "speed",
}
MONEY = {
    "budget": "a plan for spending money",
    "salary": "money paid for work",
    "loan": "money lent for a time",
    "tax": "money paid to the state",
    "price": "what one pays for a thing",
    "saving": "money kept for later",
}
VOCABULARY = {
    "ancient": "very old",
    "rapid": "very fast",
    "enormous": "very large",
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
    turned: bool = False
    decoration: bool = False


def caption(digits: list[int], turned: bool = False) -> str:
    """The words for a picture of one, two or three digits; the only place a picture is put into words."""
    names = [NAMES[digit] for digit in digits]
    if len(names) == 1:
        return f"the digit {names[0]}{' upside down' if turned else ''}"
    if len(names) == 2:
        return f"two digits: {names[0]} on the left and {names[1]} on the right"
    return f"three digits: {names[0]}, {names[1]} and {names[2]}"


def read_digit(rng: random.Random) -> Draft:
    digit = rng.randrange(10)
    return Draft(
        "Which digit is written?", list("0123456789"), str(digit), f"It is {caption([digit])}.", digits=[digit]
    )


def read_elsewhere(question: str, solution: str):
    """A digit read where people meet one; the same reading, other words."""

    def make(rng: random.Random) -> Draft:
        digit = rng.randrange(10)
        return Draft(question, list("0123456789"), str(digit), solution.format(caption([digit])), digits=[digit])

    return make


def count_in_strip(rng: random.Random) -> Draft:
    digits, wanted = [rng.randrange(10) for _ in PLACES], rng.randrange(10)
    digits = [wanted if rng.random() < 0.45 else digit for digit in digits]
    times = digits.count(wanted)
    solution = f"The strip shows {caption(digits)}. So {NAMES[wanted]} is written {times} times."
    return Draft(
        f"How many times is {NAMES[wanted]} written in this strip?", list("0123"), str(times), solution, digits=digits
    )


def larger_of_two(rng: random.Random) -> Draft:
    left, right = rng.sample(range(10), 2)
    answer = "left" if left > right else "right"
    solution = f"The picture shows {caption([left, right])}. The larger one is on the {answer}."
    return Draft(
        "On which side is the larger digit written?", ["left", "right"], answer, solution, digits=[left, right]
    )


def odd_one_out(rng: random.Random) -> Draft:
    same, other = rng.sample(range(10), 2)
    place = rng.randrange(3)
    digits = [other if index == place else same for index in range(3)]
    solution = f"The strip shows {caption(digits)}. The {PLACES[place]} one differs."
    return Draft("Which digit of this strip differs?", list(PLACES), PLACES[place], solution, digits=digits)


def _numbers_around(rng, truth: int) -> list[str]:
    lowest = max(0, truth - rng.randrange(4))
    return [str(number) for number in range(lowest, lowest + 4)]


def sum_of_two(rng: random.Random) -> Draft:
    left, right = rng.randrange(10), rng.randrange(10)
    solution = f"The picture shows {caption([left, right])}. {left} + {right} = {left + right}."
    return Draft(
        "What is the sum of the two written digits?",
        _numbers_around(rng, left + right),
        str(left + right),
        solution,
        digits=[left, right],
    )


def parity(rng: random.Random) -> Draft:
    digit = rng.randrange(10)
    answer = "odd" if digit % 2 else "even"
    return Draft(
        "Is the written digit even or odd?",
        ["even", "odd"],
        answer,
        f"It is {caption([digit])}, which is {answer}.",
        digits=[digit],
    )


def upside_down(rng: random.Random) -> Draft:
    digit, turned = rng.choice(TURNABLE), rng.random() < 0.5
    return Draft(
        "Is the written digit upside down?",
        ["yes", "no"],
        "yes" if turned else "no",
        f"It is {caption([digit])}. It stands {'on its head' if turned else 'as it should'}.",
        digits=[digit],
        turned=turned,
    )


def calendar_leaf(rng: random.Random) -> Draft:
    digit = rng.randrange(1, 9)
    return Draft(
        "Which day comes after the one shown on this calendar leaf?",
        list("23456789"),
        str(digit + 1),
        f"The leaf shows {caption([digit])}. The next day is {digit + 1}.",
        digits=[digit],
    )


def house_number(rng: random.Random) -> Draft:
    digit = rng.randrange(1, 10)
    answer = "south" if digit % 2 else "north"
    return Draft(
        "On which side of the street is the house with the number shown?",
        ["north", "south"],
        answer,
        f"The number is {caption([digit])}, so the house is on the {answer} side.",
        hint="Even house numbers are on the north side of the street and odd ones on the south side.",
        digits=[digit],
    )


def votes(rng: random.Random) -> Draft:
    red, blue = rng.sample(range(10), 2)
    answer = "red" if red > blue else "blue"
    return Draft(
        "Which team won the vote?",
        ["red", "blue"],
        answer,
        f"The board shows {caption([red, blue])}, so the {answer} team won.",
        hint="The board shows the votes: those for the red team on the left, those for the blue team on the right.",
        digits=[red, blue],
    )


def _words_with(rng, words: tuple[str, ...], truth: str) -> list[str]:
    return sorted([truth, *rng.sample([word for word in words if word != truth], 3)])


def spell(rng: random.Random) -> Draft:
    digit = rng.randrange(10)
    return Draft(
        "Which word spells the written digit?",
        _words_with(rng, NAMES, NAMES[digit]),
        NAMES[digit],
        f"It is {caption([digit])}.",
        digits=[digit],
    )


def letters_in_word(rng: random.Random) -> Draft:
    digit = rng.randrange(10)
    length = str(len(NAMES[digit]))
    return Draft(
        "How many letters has the word for the digit shown?",
        list("345"),
        length,
        f"It is {caption([digit])}. The word {NAMES[digit]} has {length} letters.",
        digits=[digit],
    )


def rhyme(rng: random.Random) -> Draft:
    digit = rng.randrange(10)
    return Draft(
        "Which word rhymes with the digit shown?",
        _words_with(rng, RHYMES, RHYMES[digit]),
        RHYMES[digit],
        f"It is {caption([digit])}. {NAMES[digit].capitalize()} rhymes with {RHYMES[digit]}.",
        digits=[digit],
    )


def add_figures(rng: random.Random) -> Draft:
    left, right = rng.randrange(10), rng.randrange(10)
    total = left + right
    return Draft(f"What is {left} + {right}?", _numbers_around(rng, total), str(total), f"{left} + {right} = {total}.")


def subtract_figures(rng: random.Random) -> Draft:
    right, left = sorted((rng.randrange(10), rng.randrange(10)))
    rest = left - right
    return Draft(f"What is {left} - {right}?", _numbers_around(rng, rest), str(rest), f"{left} - {right} = {rest}.")


def _definition(ask: str, say: str, bank: dict[str, str]):
    def make(rng: random.Random) -> Draft:
        term = rng.choice(list(bank))
        others = rng.sample([meaning for word, meaning in bank.items() if word != term], 2)
        return Draft(ask.format(term), sorted([bank[term], *others]), bank[term], say.format(term, bank[term]))

    return make


def in_words(maker):
    """The same question with the picture put into words: what the text model can learn without eyes."""

    def make(rng: random.Random) -> Draft:
        draft = maker(rng)
        context = f"{caption(draft.digits, draft.turned).capitalize()}."
        draft.hint = f"{context} {draft.hint}".strip()
        draft.question = draft.question.replace("written", "named").replace("shown", "named")
        draft.digits, draft.turned = [], False
        return draft

    return make


def decorated(maker):
    """The same question beside a picture that has nothing to do with it."""

    def make(rng: random.Random) -> Draft:
        draft = maker(rng)
        draft.decoration = True
        draft.hint = rng.choice(["", "", "There is a drawing beside this question."])
        return draft

    return make


@dataclass(frozen=True)
class Skill:
    subject: str
    topic: str
    category: str
    name: str
    grades: tuple[int, int]
    make: Callable[[random.Random], Draft]
    lecture: str
    weight: int = 1


NATURAL, SOCIAL, LANGUAGE = "natural science", "social science", "language science"
EVEN_ODD = "The digits zero, two, four, six and eight are even. The digits one, three, five, seven and nine are odd."
ORDER = "The digits in order are zero, one, two, three, four, five, six, seven, eight and nine."
SUMS = "To add two numbers, start at the first and count on as many steps as the second says."
leaf = read_elsewhere("Which day is shown on this calendar leaf?", "The leaf shows {}.")
door = read_elsewhere("Which number is shown on this door?", "The door has {}.")
measure = _definition("What does a {} measure?", "A {} measures {}.", INSTRUMENTS)
money = _definition("What is a {}?", "A {} is {}.", MONEY)
meaning = _definition("What does the word {} mean?", "The word {} means {}.", VOCABULARY)
TOOLS = "Measuring instruments: " + " ".join(f"A {tool} measures {what}." for tool, what in INSTRUMENTS.items())
PURSE = "Words about money: " + " ".join(f"A {word} is {what}." for word, what in MONEY.items())
GLOSSARY = "Words and meanings: " + " ".join(f"{word.capitalize()} means {what}." for word, what in VOCABULARY.items())
SPELLED = "Numbers have words: 0 zero, 1 one, 2 two, 3 three, 4 four, 5 five, 6 six, 7 seven, 8 eight, 9 nine."
RHYMED = "Rhymes: " + " ".join(
    f"{name.capitalize()} rhymes with {word}." for name, word in zip(NAMES, RHYMES, strict=True)
)

SKILLS = (
    Skill(NATURAL, "counting", "Numbers to nine", "Read a written digit", (1, 2), read_digit, SPELLED, 5),
    Skill(NATURAL, "counting", "Numbers to nine", "Read a number word", (1, 2), in_words(read_digit), SPELLED, 2),
    Skill(NATURAL, "counting", "Counting", "Count a digit in a strip", (3, 5), count_in_strip, ORDER),
    Skill(NATURAL, "comparison", "Larger and smaller", "Compare two written digits", (2, 4), larger_of_two, ORDER),
    Skill(
        NATURAL, "comparison", "Larger and smaller", "Compare two number words", (2, 4), in_words(larger_of_two), ORDER
    ),
    Skill(NATURAL, "comparison", "Same and different", "Find the odd one out", (4, 6), odd_one_out, ORDER),
    Skill(NATURAL, "comparison", "Same and different", "Odd one out in words", (4, 6), in_words(odd_one_out), ORDER),
    Skill(NATURAL, "arithmetic", "Addition", "Add two written digits", (3, 6), sum_of_two, SUMS),
    Skill(NATURAL, "arithmetic", "Addition", "Add in figures", (2, 5), add_figures, SUMS),
    Skill(NATURAL, "arithmetic", "Addition", "Add beside a drawing", (2, 5), decorated(add_figures), SUMS),
    Skill(NATURAL, "arithmetic", "Subtraction", "Subtract in figures", (3, 6), subtract_figures, SUMS),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd, written", (2, 4), parity, EVEN_ODD),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd, named", (2, 4), in_words(parity), EVEN_ODD),
    Skill(NATURAL, "geometry", "Turning", "Right way up or upside down", (3, 6), upside_down, SPELLED),
    Skill(NATURAL, "measurement", "Instruments", "Know what an instrument measures", (6, 10), measure, TOOLS),
    Skill(NATURAL, "measurement", "Instruments", "Instruments beside a drawing", (6, 10), decorated(measure), TOOLS),
    Skill(SOCIAL, "calendar", "Days", "Read a calendar leaf", (1, 3), leaf, SPELLED),
    Skill(SOCIAL, "towns", "Streets", "Read a door number", (1, 3), door, SPELLED),
    Skill(SOCIAL, "calendar", "Days", "Find the next day", (3, 5), calendar_leaf, ORDER),
    Skill(SOCIAL, "towns", "Streets", "Find a house by its number", (4, 7), house_number, EVEN_ODD),
    Skill(SOCIAL, "civics", "Elections", "Tell who won a vote", (5, 9), votes, ORDER),
    Skill(SOCIAL, "economics", "Money", "Know words about money", (8, 12), money, PURSE),
    Skill(SOCIAL, "economics", "Money", "Money beside a drawing", (8, 12), decorated(money), PURSE),
    Skill(LANGUAGE, "spelling", "Number words", "Spell a written digit", (2, 4), spell, SPELLED),
    Skill(LANGUAGE, "spelling", "Number words", "Spell a named digit", (2, 4), in_words(spell), SPELLED),
    Skill(LANGUAGE, "spelling", "Letters", "Count the letters of a number word", (5, 7), letters_in_word, SPELLED),
    Skill(LANGUAGE, "rhyme", "Rhymes", "Find a rhyme", (4, 6), rhyme, RHYMED),
    Skill(LANGUAGE, "vocabulary", "Meanings", "Know the meaning of a word", (7, 12), meaning, GLOSSARY),
    Skill(LANGUAGE, "vocabulary", "Meanings", "Meanings beside a drawing", (7, 12), decorated(meaning), GLOSSARY),
)
