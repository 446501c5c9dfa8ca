"""Match free-form answers with the right answer by one of several rules.

Every rule returns a score from 0 to 1, or None where the text says nothing that the rule can compare (unread, and
counted as wrong).
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from llava_mistral.ground.bad_input import BadInput

Scorer = Callable[[str, str], float | None]
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_SIGNS = str.maketrans(dict.fromkeys(".,;:!?\"'()[]{}*_`“”‘’", " ") | {"\0": ".", "−": "-"})
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?(?!\d|\.\d)")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def normalised(text: str) -> str:
    """Return the text in small letters, without punctuation, articles and doubled spaces, much as SQuAD's evaluator.

    Signs that mean something stay: "-5" is not "5", "3.5" not "35", "C++" not "C". An article alone is a word ("A").
    """
    text = _POINT.sub("\0", _THOUSANDS.sub("", text.replace("\0", " ").casefold()))
    words = _HYPHEN.sub(" ", text).translate(_SIGNS)
    return " ".join(_ARTICLES.sub(" ", words).split()) or " ".join(words.split())


def exact(text: str, answer: str) -> float | None:
    """1 where the text is the answer, spaces at its ends apart."""
    return float(text.strip() == answer.strip()) if text.strip() else None


def normalised_match(text: str, answer: str) -> float | None:
    """1 where the two are equal once `normalised`; an answer of signs alone is compared as it stands."""
    if not text.strip():
        return None
    given, right = normalised(text), normalised(answer)
    return float(given == right) if right else exact(text, answer)


def numeric(text: str, answer: str) -> float | None:
    """1 where the one number in the text is the answer's, whatever its spelling ("1,000", "1e3", "1000.0")."""
    values = numbers(text)
    return float(_close(next(iter(values)), next(iter(numbers(answer))))) if len(values) == 1 else None


def numbers(text: str) -> set[float]:
    """Return the different numbers in a text."""
    return {float(found[0].replace(",", "").replace("−", "-")) for found in _NUMBER.finditer(text)}


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-6 * max(1.0, abs(first), abs(second))


def yes_no(text: str, answer: str) -> float | None:
    """1 where the text says yes or no, only one of the two, and it is the answer."""
    verdicts = {word.casefold() for word in _YES_NO.findall(text)}
    return float(verdicts == {answer.strip().rstrip(".").casefold()}) if len(verdicts) == 1 else None


def token_f1(text: str, answer: str) -> float | None:
    """The harmonic mean of the shares of equal words, in the text and in the answer (as SQuAD's evaluator)."""
    given, right = normalised(text).split(), normalised(answer).split()
    if not given:
        return None
    shared = sum((Counter(given) & Counter(right)).values())
    return 2 * shared / (len(given) + len(right))


def by_pattern(pattern: re.Pattern) -> Scorer:
    """Return the rule that finds the answer in a text by a pattern: its first group, or all that it matches."""

    def score(text: str, answer: str) -> float | None:
        match = pattern.search(text)
        if match is None:
            return None
        answered = match[1] if pattern.groups else match[0]
        return None if answered is None else normalised_match(answered, answer)

    return score


RULES: dict[str, Scorer] = {
    "exact": exact,
    "normalised": normalised_match,
    "numeric": numeric,
    "yes_no": yes_no,
    "f1": token_f1,
}
REGEX = "regex:"


@dataclass(frozen=True)
class Match:
    """A rule by its name, as --match gives it: one of `RULES`, or `regex:` and a pattern."""

    name: str
    score: Scorer

    @property
    def graded(self) -> bool:
        """Whether scores lie between 0 and 1, too."""
        return self.name == "f1"


def match_of(name: str) -> Match:
    """Return the rule called `name`.

    Raises:
        BadInput: there is none of that name, or the pattern is not a regular expression.
    """
    if name in RULES:
        return Match(name, RULES[name])
    if not name.startswith(REGEX):
        remedy = f"use {', '.join(RULES)}, letters, or regex:PATTERN"
        raise BadInput(f"{name!r} is unknown", remedy=remedy, field="match")
    try:
        return Match(name, by_pattern(re.compile(name.removeprefix(REGEX))))
    except re.error as error:
        raise BadInput(
            f"is not a regular expression ({error})", remedy="correct the pattern", field="match"
        ) from error


def check_answer(match: Match, answer: str, *, file: object, record: str) -> None:
    """Refuse a right answer that the rule can never find said.

    Raises:
        BadInput: naming the record.
    """
    wrong = None
    if match.name == "numeric" and len(numbers(answer)) != 1:
        wrong = "holds no number, or several"
    elif match.name == "yes_no" and answer.strip().rstrip(".").casefold() not in ("yes", "no"):
        wrong = "is neither yes nor no"
    elif not answer.strip():
        wrong = "is empty"
    if wrong:
        remedy = "use another --match, or correct the record"
        raise BadInput(f"{answer[:40]!r} {wrong}", remedy=remedy, file=file, record=record, field="answer")
