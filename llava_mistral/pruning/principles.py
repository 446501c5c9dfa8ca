"""Three principles that make a sample worth training on: its image matters, it covers something, it is hard.

Each principle is a score of its own. This file holds those that look at one sample among the others (*necessity* of
the image, *difficulty*); `coverage.py` makes the choice that spreads over subjects, topics, categories and skills.

Necessity is judged from the text alone, as a sum of evidence in log-odds that is squashed to 0 … 1 (0.5: undecided):

* words that point into the picture, or away from it, in what is asked and in the context around it (`CUES`);
* choices that only a picture can tell apart ("Solution A", "Pair 2"), and a right choice that the context spells out;
* what other samples of the pool say. When the same words have another right answer beside another picture, the
  words cannot decide and the picture must. When they always have the same answer, a picture that decided would have
  had to agree by chance: each repetition speaks against it with the logarithm of the number of choices.

A model can be asked too (`model_evidence.py`): by how much the right answer is likelier with the picture than with a
blank one is log-odds already, and is added to the sum; how unlikely it finds the answer counts as difficulty.

The weights are set by hand and few, so that a reason can be read off; the scores are judged, never fitted, by the
samples whose need of a picture is known.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.model_evidence import ModelEvidence, pooled_gains, weigh
from llava_mistral.pruning.words import Conversation, answer_of, plain

NO_IMAGE = "has no image"
NOT_NEEDED = "the image is not needed: the text decides"
NOTHING_POINTS = "the image is not needed: nothing points into it"
SEEN_BLIND = "the image is not needed: the model answers as well without it"
TOO_WEAK = "what speaks for the image is too weak for --necessity"
UNDECIDED = THRESHOLD = 0.5  # necessity at which the image counts as needed, unless --necessity says otherwise
PRIOR = -1.0  # a picture beside a question is decoration until something speaks for it: 54 % of ScienceQA's are
CONTRADICTION, MOST_AGREEMENT = 4.0, 4.0

_PICTURE = (
    r"(?:pictures?|images?|photo(?:graph)?s?|maps?|diagrams?|graphs?|charts?|figures?|tables?|drawings?|illustrations?"
    r"|ads?|advertisements?|models?|grids?|timelines?|food webs?|event chains?|strips?|calendar|board|sketch)"
)
STEM = 4  # letters by which "push", "pushes" and "pushing" are one word
_LOOK = r"(?:use|look at|study)"
_NOT_A_THING = r"(?:time|cross|statements?|\w+'s)"
_TEXT = r"(?:passages?|texts?|paragraphs?|stor(?:y|ies)|sentences?|poems?|letters?|experiments?|words?)"


@dataclass(frozen=True)
class Cue:
    """A pattern that speaks for (weight above 0) or against needing the picture, in log-odds."""

    place: str  # "ask": the last sentence of the question; "lead": what comes before it; "hint": the context
    weight: float
    why: str
    pattern: re.Pattern
    unnamed: bool = False  # it speaks only when the thing it ends on is not named in the other words


def _cue(place: str, weight: float, why: str, pattern: str, unnamed: bool = False) -> Cue:
    return Cue(place, weight, why, re.compile(pattern, re.IGNORECASE), unnamed)


CUES = (
    _cue("ask", 2.5, "asks for what is shown or marked", r"\b(?:shown|highlighted|marked|outlined|pictured|drawn)\b"),
    _cue("ask", 2.5, "asks about a picture by name", rf"\b(?:this|these|the|in each) (?:[\w-]+ )?{_PICTURE}\b"),
    _cue("ask", 2.0, "asks about what is below", r"\b(?:below|depicted|in the background|in the foreground)\b"),
    _cue("ask", 2.0, "asks for a place on a map", r"\bfarthest (?:north|south|east|west)\b"),
    _cue("ask", 2.0, "asks for a place in a grid", r"\bin (?:row|column) \w"),
    _cue("ask", 1.5, "asks what lines meet or arrows say", r"\bintersects?\b|\barrows?\b"),
    _cue("ask", 1.5, "points at a thing", rf"\b(?:this|these|those) (?!{_TEXT}\b|{_NOT_A_THING}\b)\w+", True),
    _cue("ask", 1.5, "asks what the eye sees", r"\bupside down\b|\bwhat colou?r\b|\bhow many [\w ]+ are there\b"),
    _cue("ask", 1.0, "compares", r"\bin common\b|\bhigher (?:concentration|temperature)\b|\beach (?:sample|pair)\b"),
    _cue("lead", 2.0, "tells to look at a picture", rf"\blook at\b[^.?!]*\b{_PICTURE}\b|\bdescribe the {_PICTURE}\b"),
    _cue("lead", 1.5, "points at things to compare", r"\bin each (?:sample|pair)\b|\bcompare\b"),
    _cue("hint", 2.0, "the context sends to it", rf"\b{_LOOK} the (?:[\w-]+ ){{0,3}}(?:data|{_PICTURE})\b"),
    _cue("hint", 2.0, "the context points below", rf"\b{_PICTURE} (?:\w+ ){{0,3}}below\b|\b(?:as|are|is) shown\b"),
    # "This picture shows an African elephant" is a caption; "this diagram shows" and "the picture shows" are not.
    _cue(
        "hint", 2.0, "the context says how to read it",
        rf"\b(?:(?<!\bthis )|(?!picture|image|photo)){_PICTURE} (?:shows?|represents?)\b",
    ),  # fmt: skip
    _cue("ask", -3.0, "asks about a text", rf"\b(?:this|the|following) {_TEXT}\b"),
    _cue("ask", -3.0, "is arithmetic in figures", r"\d\s*[-+×*/÷]\s*\d"),
    _cue("ask", -1.5, "asks for a fact", r"\bcapital of\b|\bwhat (?:does|do|is|are|was) (?:an?|the word)\b"),
    _cue("ask", -1.5, "asks about an experiment in words", r"\bexperiment\b|\bcould [\w' ]+ test show\b|\bpassage\b"),
    _cue("hint", -2.0, "the context only names the picture", r"\A\s*figure:"),
    _cue("hint", -2.0, "the context is a passage", r"\b(?:(?:read|in) the|this) passage\b|\bthe passage below\b"),
)  # fmt: skip
_INSTRUCTION = re.compile(r"(?:answer|respond|reply) (?:with|the question|in|using)\b", re.IGNORECASE)
LABELS = re.compile(r"(?:sample|solution|pair|picture|figure|map|graph|container|object)s? [a-d1-9]\b", re.IGNORECASE)


@dataclass(frozen=True)
class Scores:
    """Both scores of one sample, each from 0 to 1, what decided the first, and why its image is not needed, if so."""

    necessity: float
    difficulty: float
    why: str
    against: str = NOT_NEEDED

    @property
    def fits(self) -> bool:
        """Whether the image is needed by the default threshold."""
        return self.necessity >= THRESHOLD


def score(problems: Sequence[Problem], model_evidence: Mapping[str, ModelEvidence] | None = None) -> list[Scores]:
    """Return the scores of all problems, which are judged among each other.

    Args:
        model_evidence: by problem id, what a model says; those it was not asked are judged without.
    """
    from tqdm import tqdm

    model_evidence = model_evidence or {}
    gains = pooled_gains(problems, model_evidence)
    evidence = repetition_evidence(problems)
    losses = [-model_evidence[problem.pid].seeing if problem.pid in model_evidence else None for problem in problems]
    hard = difficulties(problems, losses)
    result = []
    judged = tqdm(zip(problems, evidence, hard, strict=True), "judging", len(problems), unit=" samples", delay=2)
    for problem, repeated, difficulty in judged:
        if not problem.has_image:
            result.append(Scores(0.0, difficulty, NO_IMAGE, NO_IMAGE))
            continue
        signs = [*text_evidence(problem), *repeated]
        of_model = weigh(gains[problem.pid]) if problem.pid in gains else (0.0, "")
        odds = PRIOR + sum(weight for weight, _ in [*signs, of_model])
        necessity = 1 / (1 + math.exp(-odds))
        against = _against(signs, of_model[0])
        signs += [of_model] if of_model[1] else []
        result.append(Scores(necessity, difficulty, _strongest(signs, necessity), against))
    return result


def _against(evidence: list[tuple[float, str]], of_model: float) -> str:
    """Return why the image is not needed, by what speaks against it the most; nothing does where nothing is found."""
    by_words = min((weight for weight, _ in evidence), default=0)
    if min(by_words, of_model) >= 0:
        return TOO_WEAK if evidence or of_model else NOTHING_POINTS
    return NOT_NEEDED if by_words <= of_model else SEEN_BLIND


def text_evidence(problem: Problem) -> list[tuple[float, str]]:
    """Return (log-odds, reason) of everything in the problem's own words that speaks for or against the picture.

    A conversation needs its picture when one of its questions does: the one that speaks for it the most is heard.
    """
    questions = problem.asked if isinstance(problem, Conversation) else (problem.question,)
    each = (_evidence_of(problem, question) for question in questions)
    return max(each, key=lambda evidence: sum(weight for weight, _ in evidence))


def _evidence_of(problem: Problem, question: str) -> list[tuple[float, str]]:
    lead, ask = _split_question(question)
    hint = problem.hint or ""
    places = {"ask": ask, "lead": lead, "hint": hint}
    evidence = [
        (cue.weight, cue.why)
        for cue in CUES
        if (match := cue.pattern.search(places[cue.place]))
        and not (cue.unnamed and _names(f"{lead} {hint}", match[0]))
    ]
    evidence = _strongest_per_place(evidence)
    if sum(bool(LABELS.search(choice)) for choice in problem.choices) >= 2:
        evidence.append((2.0, "its choices are labels in a picture"))
    if _spelled_out(problem, hint):
        evidence.append((-2.0, "the context spells out the right choice and no other"))
    return evidence


def repetition_evidence(problems: Sequence[Problem]) -> list[list[tuple[float, str]]]:
    """Return per problem the (log-odds, reason) that the other problems with the same question and context give."""
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for problem in problems:
        if problem.has_image and (answer := _answer(problem)):
            answers[_words(problem)][answer] += 1
    return [_from_repetitions(problem, answers.get(_words(problem), Counter())) for problem in problems]


def _from_repetitions(problem: Problem, answers: Counter[str]) -> list[tuple[float, str]]:
    answer = _answer(problem)
    if not answer or sum(answers.values()) < 2:
        return []
    others = set(answers) - {answer}
    rivals = others & set(map(plain, problem.choices)) if problem.choices else others
    if rivals:
        return [(CONTRADICTION, "the same words have another answer beside another picture")]
    if others:
        return []
    against = (answers[answer] - 1) * math.log(max(len(problem.choices), 2))
    return [(-min(against, MOST_AGREEMENT), "the same words always have the same answer")]


def difficulties(problems: Sequence[Problem], losses: Sequence[float | None] | None = None) -> list[float]:
    """Return the difficulty of each problem: the mean of its ranks (0 … 1) by everything that tells about it.

    Grade, length of lecture and solution in words, number of choices, and `losses` (a model's loss on the answer) when
    given. Words, because characters would prefer answers that are long to spell: of the ten digits, only three, seven
    and eight. What no problem of the pool has, or all have alike, tells nothing and is left out.
    """
    measures = [
        [_grade(problem) for problem in problems],
        [len((problem.lecture or "").split()) + len((problem.solution or "").split()) for problem in problems],
        [len(problem.choices) for problem in problems],
    ]
    measures += [list(losses)] if losses is not None else []
    ranked = [_ranks(values) for values in measures if len({v for v in values if v is not None}) > 1]
    return [sum(ranks) / len(ranks) for ranks in zip(*ranked, strict=True)] if ranked else [0.5] * len(problems)


def missing_principles(problems: Iterable[Problem]) -> list[str]:
    """Return, in words, the principles for which the samples carry nothing to judge by."""
    problems = list(problems)
    lacks = []
    if not any(problem.skill or problem.category or problem.topic or problem.subject for problem in problems):
        lacks.append("coverage (no subject, topic, category or skill)")
    if not any(problem.grade for problem in problems):
        lacks.append("difficulty by grade")
    return lacks


def _split_question(question: str) -> tuple[str, str]:
    """Return what leads up to the question, and its last sentence: the one that asks."""
    sentences = [s for s in re.split(r"(?<=[.?!:])\s+|\n+", question.strip()) if not _INSTRUCTION.match(s)] or [
        question
    ]
    asking = [i for i, sentence in enumerate(sentences) if sentence.endswith("?")]
    last = asking[-1] if asking else len(sentences) - 1
    return " ".join(sentences[:last] + sentences[last + 1 :]), sentences[last]


def _names(text: str, pointing: str) -> bool:
    """Return whether `text` names what "this pull" points at: in it, a word begins alike ("pulls")."""
    stem = pointing.split()[-1].lower()[:STEM]
    return any(word.startswith(stem) for word in re.findall(r"\w+", text.lower()))


def _strongest_per_place(evidence: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Keep the two strongest for and the two strongest against: ten pointing words are not ten proofs."""
    evidence = sorted(evidence, key=lambda item: -abs(item[0]))
    return [item for item in evidence if item[0] > 0][:2] + [item for item in evidence if item[0] < 0][:2]


def _strongest(evidence: list[tuple[float, str]], necessity: float) -> str:
    side = [item for item in evidence if (item[0] > 0) == (necessity >= THRESHOLD)]
    return max(side, key=lambda item: abs(item[0]))[1] if side else "nothing points into the picture"


def _spelled_out(problem: Problem, hint: str) -> bool:
    """Whether the right choice, and no other, stands in the context as it is (choices of 4 characters and more)."""
    if problem.answer is None or len(problem.choices[problem.answer]) < 4:
        return False
    in_hint = [plain(choice) in plain(hint) for choice in problem.choices]
    return in_hint[problem.answer] and sum(in_hint) == 1


def _answer(problem: Problem) -> str | None:
    return plain(answer_of(problem)) or None


def _words(problem: Problem) -> tuple[str, str]:
    return plain(problem.question), plain(problem.hint or "")


def _grade(problem: Problem) -> int | None:
    digits = re.findall(r"\d+", problem.grade or "")
    return int(digits[0]) if digits else None


def _ranks(values: Sequence[float | None]) -> list[float]:
    """Return ranks from 0 to 1, equal values sharing the middle of theirs; what is unknown ranks in the middle."""
    known = sorted(value for value in values if value is not None)
    places: dict[float, list[int]] = defaultdict(list)
    for place, value in enumerate(known):
        places[value].append(place)
    rank = {value: (p[0] + p[-1]) / 2 / max(len(known) - 1, 1) for value, p in places.items()}
    return [0.5 if value is None else rank[value] for value in values]
