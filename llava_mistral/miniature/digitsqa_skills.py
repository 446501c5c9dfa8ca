"""The skills of DigitsQA: question makers with subject, topic, category, grades and weight."""

from dataclasses import dataclass

from llava_mistral.miniature import digitsqa_questions as ask
from llava_mistral.miniature.digitsqa_questions import Maker, decorated, in_words


@dataclass(frozen=True)
class Skill:
    """A kind of question; `weight` is its share of train, while val and test ask every skill as often."""

    subject: str
    topic: str
    category: str
    name: str
    grades: tuple[int, int]
    make: Maker
    lecture: str
    weight: int = 1


NATURAL, SOCIAL, LANGUAGE = "natural science", "social science", "language science"
EVEN_ODD = "The digits zero, two, four, six and eight are even. The digits one, three, five, seven and nine are odd."
ORDER = "The digits in order are zero, one, two, three, four, five, six, seven, eight and nine."
measure = ask.definition(
    (
        "What does a {} measure?",
        "What is measured with a {}?",
        "A {} is made to measure what?",
        "What can one read off a {}?",
        "What do people measure by a {}?",
        "Say what a {} measures.",
    ),
    "A {} measures {}.",
    ask.INSTRUMENTS,
)
money = ask.definition(
    (
        "What is a {}?",
        "What does one call a {}?",
        "What is meant by a {}?",
        "A {} is what?",
        "How would you explain a {}?",
        "Say what a {} is.",
    ),
    "A {} is {}.",
    ask.MONEY,
)
meaning = ask.definition(
    (
        "What does the word {} mean?",
        "What is the meaning of {}?",
        "What is meant by {}?",
        "Something {} is what?",
        "How would you explain the word {}?",
        "Say what {} means.",
    ),
    "The word {} means {}.",
    ask.VOCABULARY,
)
TOOLS = "Measuring instruments: " + " ".join(f"A {tool} measures {what}." for tool, what in ask.INSTRUMENTS.items())
PURSE = "Words about money: " + " ".join(f"A {word} is {what}." for word, what in ask.MONEY.items())
GLOSSARY = "Words and meanings: " + " ".join(
    f"{word.capitalize()} means {what}." for word, what in ask.VOCABULARY.items()
)
SPELLED = "Numbers have words: 0 zero, 1 one, 2 two, 3 three, 4 four, 5 five, 6 six, 7 seven, 8 eight, 9 nine."
RHYMED = "Rhymes: " + " ".join(
    f"{name.capitalize()} rhymes with {word}." for name, word in zip(ask.NAMES, ask.RHYMES, strict=True)
)

SKILLS = (
    Skill(NATURAL, "counting", "Numbers to nine", "Read a written digit", (1, 2), ask.read_digit, SPELLED, 2),
    Skill(NATURAL, "counting", "Numbers to nine", "Read a number word", (1, 2), in_words(ask.read_digit), SPELLED),
    Skill(NATURAL, "order", "Places", "Read the digit in the middle", (2, 4), ask.middle_digit, ORDER),
    Skill(NATURAL, "order", "Places", "Read the first or third digit", (3, 5), ask.end_digit, ORDER),
    Skill(NATURAL, "order", "Places", "Read the digit on one side", (2, 4), ask.side_digit, ORDER, 2),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd, written", (2, 4), ask.parity, EVEN_ODD),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd, named", (2, 4), in_words(ask.parity), EVEN_ODD),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd on one side", (4, 6), ask.side_parity, EVEN_ODD),
    Skill(NATURAL, "parity", "Even and odd", "Even or odd, of two named", (4, 6), in_words(ask.side_parity), EVEN_ODD),
    Skill(NATURAL, "counting", "Numbers to nine", "Say whether it is a named digit", (3, 6), ask.named_digit, SPELLED),
    Skill(NATURAL, "measurement", "Instruments", "Know what an instrument measures", (6, 10), measure, TOOLS, 2),
    Skill(NATURAL, "measurement", "Instruments", "Instruments beside a drawing", (6, 10), decorated(measure), TOOLS),
    Skill(SOCIAL, "calendar", "Days", "Read a calendar leaf", (1, 3), ask.read_leaf, SPELLED),
    Skill(SOCIAL, "calendar", "Days", "Find the next day", (3, 5), ask.calendar_leaf, ORDER, 2),
    Skill(SOCIAL, "calendar", "Days", "Find the day after a named one", (3, 5), in_words(ask.calendar_leaf), ORDER),
    Skill(SOCIAL, "towns", "Streets", "Read a door number", (1, 3), ask.read_door, SPELLED),
    Skill(SOCIAL, "towns", "Streets", "Find a house by its number", (4, 7), ask.house_number, EVEN_ODD),
    Skill(SOCIAL, "civics", "Elections", "Count the votes of a team", (5, 9), ask.votes, ORDER, 2),
    Skill(SOCIAL, "economics", "Money", "Know words about money", (8, 12), money, PURSE, 2),
    Skill(SOCIAL, "economics", "Money", "Money beside a drawing", (8, 12), decorated(money), PURSE),
    Skill(LANGUAGE, "spelling", "Number words", "Spell a written digit", (2, 4), ask.spell, SPELLED),
    Skill(LANGUAGE, "spelling", "Number words", "Spell a named digit", (2, 4), in_words(ask.spell), SPELLED),
    Skill(LANGUAGE, "spelling", "Letters", "Count the letters of a number word", (5, 7), ask.letters_in_word, SPELLED),
    Skill(LANGUAGE, "rhyme", "Rhymes", "Find a rhyme", (4, 6), ask.rhyme, RHYMED),
    Skill(LANGUAGE, "vocabulary", "Meanings", "Know the meaning of a word", (7, 12), meaning, GLOSSARY, 2),
    Skill(LANGUAGE, "vocabulary", "Meanings", "Meanings beside a drawing", (7, 12), decorated(meaning), GLOSSARY),
)  # fmt: skip
