"""The pretraining documents of the miniature's text model.

A real Mistral has read of everything that a picture may show; a model of half a million weights has not, and a
projector cannot teach it. So it reads the questions of DigitsQA beside *pictures put into words*: as many vectors as
the tower has patches, each the sum of the embeddings of two words, what is seen there and in which place of the row.
What it learns so is to answer from such a grid; to bring pictures into that form is left to the projector. It never
reads a wording that belongs to val or test (`digitsqa_questions.home`).
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from llava_mistral.data.scienceqa import INSTRUCTION, LETTERS
from llava_mistral.miniature import digitsqa_questions as ask
from llava_mistral.miniature.digitsqa_questions import NAMES, Draft, caption, draft_for
from llava_mistral.miniature.digitsqa_skills import SKILLS
from llava_mistral.miniature.instructions import Turn, lettered, open_turns

NOTHING = "paper"
ASKED = 4  # of the same choices, one after the other: as far as the window of the text model reaches
LETTERED = 0.8  # of the questions
COLOURED = ("red", "green", "blue", "grey")
SHAPED = ("circle", "square", "triangle")


NO_PLACE, END, NOT_ASKED = -1, -2, -100
PLACES = {1: ("",), 2: ("left", "right"), 3: ("first", "middle", "third")}
Patch = tuple[str, str]  # what is seen, and where; "" says nothing


@dataclass(frozen=True)
class Document:
    """What is read at once: a picture in words (none: no picture), then turns, or a text alone where there are none.

    Only answers, captions and texts are learned.
    """

    patches: tuple[Patch, ...]
    turns: tuple[Turn, ...]
    text: str = ""


def patch_words(digits: list[int], side: int, rng: random.Random) -> tuple[Patch, ...]:
    """The words of `side * side` patches: what is seen in the place of each, row by row; a tenth of it is not seen.

    A patch on the border of two digits may show either, those at the upper and lower edge of a strip often none.
    """
    count, words = len(digits), []
    for row in range(side):
        for column in range(side):
            place = min(int((column + rng.random()) / side * count), count - 1)  # somewhere within the patch
            edge = count > 1 and row in (0, side - 1)
            seen = rng.random() >= (0.6 if edge else 0.1)
            words.append((NAMES[digits[place]], PLACES[count][place]) if seen else (NOTHING, ""))
    return tuple(words)


def shape_words(colour: str, shape: str, side: int, rng: random.Random) -> tuple[Patch, ...]:
    """As `patch_words`, of a drawing that decorates."""
    return tuple((colour, shape) if rng.random() < 0.6 else (NOTHING, "") for _ in range(side * side))


def picture_in_words(draft: Draft, side: int, rng: random.Random) -> tuple[tuple[Patch, ...], str | None]:
    """The patches of a draft's picture and its caption; a decoration is drawn as `digitsqa` draws it."""
    if draft.digits:
        return patch_words(draft.digits, side, rng), caption(draft.digits)
    if not draft.decoration:
        return (), None
    if rng.random() < 0.5:
        colour, shape = rng.choice(COLOURED), rng.choice(SHAPED)
        return shape_words(colour, shape, side, rng), f"a {colour} {shape}"
    digit = rng.randrange(10)
    return patch_words([digit], side, rng), caption([digit])


def question_documents(count: int, side: int, rng: random.Random) -> Iterable[Document]:
    """Questions of every skill as stage 2 asks them, by letter or open."""
    wheel = [skill for skill in SKILLS for _ in range(skill.weight)]
    for index in range(count):
        draft = draft_for("train", wheel[index % len(wheel)].make, rng)
        patches, words = picture_in_words(draft, side, rng)
        turns = [lettered(draft)] if rng.random() < LETTERED else open_turns(rng, draft, words)[1]
        yield Document(patches, tuple(turns))


def caption_documents(count: int, side: int, rng: random.Random) -> Iterable[Document]:
    """Pictures in words with their captions, in the shares of the alignment set."""
    for _ in range(count):
        kind = rng.random()
        if kind < 0.05:
            colour, shape = rng.choice(COLOURED), rng.choice(SHAPED)
            yield Document(shape_words(colour, shape, side, rng), (), f"a {colour} {shape}")
            continue
        number = 1 if kind < 0.45 else 2 if kind < 0.7 else 3
        digits = [rng.randrange(10) for _ in range(number)]
        yield Document(patch_words(digits, side, rng), (), caption(digits))


def letter_documents(count: int, rng: random.Random) -> Iterable[Document]:
    """Choices, and the letters of some asked for one after the other: nothing else has to be found out."""
    kinds = [ask.FIGURES, NAMES, ask.RHYMES, ("even", "odd"), ("yes", "no"), ("left", "right"), ("red", "blue")]
    kinds += [("north", "south"), *(tuple(bank.values()) for bank in (ask.INSTRUMENTS, ask.MONEY, ask.VOCABULARY))]
    for _ in range(count):
        kind = rng.choice(kinds[:3] + kinds)
        choices = rng.sample(kind, min(ask.CHOICES, len(kind)))
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        wanted = [rng.choice(choices) for _ in range(ASKED)]
        questions = [[wanted[0], *lines], *([choice] for choice in wanted[1:])]
        turns = [
            ("\n".join([*question, INSTRUCTION]), LETTERS[choices.index(choice)])
            for question, choice in zip(questions, wanted, strict=True)
        ]
        yield Document((), tuple(turns))


def place_documents(count: int, side: int, rng: random.Random) -> Iterable[Document]:
    """Two or three digits, and those in three places asked for one after the other."""
    for _ in range(count):
        digits = [rng.randrange(10) for _ in range(rng.choice((2, 3)))]
        turns = []
        for _ in range(3):
            place = rng.randrange(len(digits))
            turns.append((ask.PLACE_QUESTIONS[len(digits), place], str(digits[place])))
        yield Document(patch_words(digits, side, rng), tuple(turns))


def text_documents(letters: int, count: int, side: int, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Two lessons: `letters` documents of choices alone, and `count` of captions, questions, lectures and choices.

    To find the letter of an answer is learned suddenly, and many times sooner where nothing else is asked.
    """
    rng = random.Random(f"{seed} documents")
    first = list(letter_documents(letters, rng))
    captions = list(caption_documents(count // 8, side, rng))
    dense = [*letter_documents(count // 16, rng), *place_documents(count // 10, side, rng)]
    questions = list(question_documents(count - len(captions) - len(dense), side, rng))
    lectures = [
        Document((), (), lecture) for lecture in sorted({skill.lecture for skill in SKILLS}) for _ in range(10)
    ]
    return first, captions + dense + questions + lectures


def words_of(documents: Iterable[Document]) -> list[str]:
    """The texts of the documents as the templates write them, for training a tokenizer."""
    texts = []
    for document in documents:
        texts += [" ".join(word for patch in document.patches for word in patch if word), document.text]
        texts += [f"[INST] {question} [/INST] {answer}" for question, answer in document.turns]
    return [text for text in texts if text]


def answer_choice(question: str, answer: str) -> str:
    """The choice that a letter stands for, where the question offers choices; otherwise the answer itself."""
    for line in question.split("\n"):
        if line.startswith(f"{answer}. "):
            return line.removeprefix(f"{answer}. ")
    return answer


def encode(document: Document, ids_of) -> tuple[list[int], list[int], list[bool], list[int]]:
    """Token ids of a document without its first token, what stands beside them, and which tokens are learned.

    Args:
        ids_of: returns the ids of a text; the tokenizer, too, takes the texts between special tokens one by one.

    Returns:
        four lists of one length: tokens, `END` where the end token stands; places, `NO_PLACE` where a token says
        nothing of one; whether the token is learned; and where a question ends, the first token of what its answer
        means, elsewhere `NOT_ASKED`.
    """
    seen = [ids_of(word)[0] for word, _ in document.patches]
    where = [ids_of(place)[0] if place else NO_PLACE for _, place in document.patches]
    if not document.turns:
        text = ids_of(f"{document.text}\n")
        learned = [False] * len(seen) + [True] * len(text)
        return seen + text, where + [NO_PLACE] * len(text), learned, [NOT_ASKED] * len(learned)
    ids, places, learned, meanings = [], [], [], []
    for number, (question, answer) in enumerate(document.turns):
        if number == 0 and seen:
            before, after = ids_of("[INST] "), ids_of(f"\n{question} [/INST]")
            prompt_ids, at = [*before, *seen, *after], [NO_PLACE] * len(before) + where + [NO_PLACE] * len(after)
        else:
            prompt_ids = ids_of(f"[INST] {question} [/INST]")
            at = [NO_PLACE] * len(prompt_ids)
        answer_ids = [*ids_of(f" {answer} "), END]
        ids, places = ids + prompt_ids + answer_ids, places + at + [NO_PLACE] * len(answer_ids)
        learned += [False] * len(prompt_ids) + [True] * len(answer_ids)
        meanings += (
            [NOT_ASKED] * (len(prompt_ids) - 1)
            + ids_of(answer_choice(question, answer))[:1]
            + [NOT_ASKED] * len(answer_ids)
        )
    return ids, places, learned, meanings
