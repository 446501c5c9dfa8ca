"""Parse which lettered choice a model's text names, if any.

A text that names several choices, or takes an answer back, is read as none: a wrong reading would be scored silently.
Every pattern here is linear in the length of the text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llava_mistral.data.scienceqa import LETTERS

# How an answer was read, as summaries count it.
LETTER, LETTER_AND_TEXT, STATED, OWN_TEXT = "letter", "letter and text", "stated", "choice's own text"
EMPTY, NONE, SEVERAL = "unread: empty", "unread: names no choice", "unread: names several or takes one back"

_QUOTES = "#*_`\"'“”‘’«»‹›「」【】$ \t\r\n"
# Signs as other keyboards write them: full-width letters and signs, and the full stop and comma of Chinese.
_SIGNS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {ord("。"): ".", ord("、"): ","}
_BARE = re.compile(r"[(\[{]?([A-Za-z])[)\]}]?[.):!]?")
_LEADING = re.compile(r"[(\[]?([A-Za-z])(?:[)\]]?(?:\s*[.):,;]|\s+[-–—](?=\s)|[ \t]*\n)|[)\]](?=\s))")
# No word boundary before "The": the published GPT-3 texts write a line break as a backslash and an n.
_ANSWER = r"(?:final |correct |right |best )*(?:answer|option|choice)"
_FOREIGN = "réponse|respuesta|resposta|risposta|antwort|ответ|答案"
_TOLD = re.compile(
    rf"[Tt]he {_ANSWER}(?: is| must be| should be| would be|:)"
    r"(?: (?:that|probably|likely|clearly|definitely|therefore|thus))?"
    r":?\s*(?:(?:option|choice|letter) )?"
    r"(?:[(\[]?([A-Z])\b[)\]]?(?=[.,;:!]|\s*$|\s+because|\s+BECAUSE|\s+(?:or|and)\b)|[(\[]?([a-z])[)\]]?(?=[.!]?\s*$))"
)
_LABELLED = re.compile(
    rf"(?:my |la |die )?(?:{_ANSWER}|letter|{_FOREIGN})(?: is| est| es| ist|是|为)?\s*[:=-]?\s*"
    r"(?:(?:option|choice) )?[(\[]?([A-Z])[)\]]?(?=[.,;:!\n]|\s*$)",
    re.IGNORECASE,
)  # "Answer: B", "Option B", at the start of a text or of a line alone
_IS_RIGHT = re.compile(
    r"(?<![\w.'’-])[(\[]?([A-Z])[)\]]? (?i:is (?:the )?(?:correct|right|best|answer)\b)"
)  # "B is correct", "Option B is the right answer", wherever it stands
_JOINED = re.compile(r"(?:\b(?:and|or|nor|not|neither)|[,/&])\s*$", re.IGNORECASE)
_ALL_BUT = re.compile(r"\b(?:every\w*|all|any\w*|none|nothing)\b[^.!?\n]*\b(?:but|except(?: for)?)\s*$", re.IGNORECASE)
_CONCLUDES = re.compile(r"\b(?:so|therefore|thus|hence),\s*$", re.IGNORECASE)
_OWN = re.compile(
    rf"(?:(?:the )?{_ANSWER}(?: is|:)|it(?: is|['’]s))\s*:?\s*(?:(?:option|choice) )?"
    r"(?:[(\[]?([A-Z])[)\]]?[.):]?\s+)?(.+)",
    re.IGNORECASE | re.DOTALL,
)
_SAYS = re.compile(
    r"(?i:i(?: would|['’]d)? (?:choose|pick|select|say|go with)|i (?:think|believe|guess)(?: it is| it['’]s)?"
    r"|it(?: is|['’]s| must be| should be)|my answer is) [(\[]?([A-Za-z])[)\]]?[.!]?"
)
_BEFORE = re.compile(r"([A-Z])\s+\((.+)\)[.!]?", re.DOTALL)  # "B (arid)"
_OWN_IS_RIGHT = re.compile(rf"(.+) is the {_ANSWER}[.!]?", re.IGNORECASE | re.DOTALL)  # "Arid is the right answer."
_BESIDE = re.compile(r"([A-Z])(?:\s+=)?\s+(.+)", re.DOTALL)  # "B arid", "B = arid"
_FOR = re.compile(r"[(\[]?([A-Z])[)\]]?,?\s+because\b")
_SO = re.compile(
    r"(?:^|(?<=[.,;!?\n])\s*)(?i:so|therefore|thus|hence)[,:]?\s+(?i:it(?: is|['’]s)\s+)?(?i:option\s+)?"
    r"[(\[]?([A-Z])[)\]]?[.!]?$"
)  # "Option C is wrong, so B"
_FIELD = re.compile(r'\{\s*"?(?:answer|choice|option)"?\s*:\s*"?([A-Za-z])"?\s*\}', re.IGNORECASE)  # JSON
_BEHIND = re.compile(r"[(\[]([A-Z])[)\]][.!]?$")  # "arid (B)"
_FACE = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_WRAPPED = re.compile(
    r"</?answer>|</s>$|<\|\w+\|>$|\*\*|`|[\"'“”‘](?=[A-Za-z][\"'“”’])|(?<=[\"'“‘][A-Za-z])[\"'“”’]", re.IGNORECASE
)
# Another letter of a list, where a list may go on: "A, B", "A or B", "A/B", "A and (B)".
_GOES_ON = re.compile(
    r"\s*(?:[,/&;]\s*(?:or |and )?|(?:or|and|nor)\s+)[(\[]?"
    r"(?:[B-HJ-Z][)\]]?(?![\w'’])|[AI][)\]]?(?![\w'’]|\s+(?!and\b|or\b)[a-z]))"
)
_ENUMERATED = re.compile(
    r"(?<![\w'’-])(?<![A-Za-z]\.)(?:[(\[]([A-Z])[)\]]|([A-Z])(?:[.):](?=\s|$)|(?=\s*(?:[,;\n]|$))))"
)
_SENTENCE = re.compile(r"\n|\. |\bbecause\b", re.IGNORECASE)
_ARGUED = re.compile(r"\bbecause\b", re.IGNORECASE)  # what follows argues for the answer, and may speak of anything
_TAKEN_BACK = re.compile(
    r"\b(?:no,|wait\b|actually,|sorry|scratch that|correction:|i mean\b|on second thoughts?|i was wrong"
    r"|i take (?:it|that) back|let me (?:re|correct)"
    r"|(?:this|that|it|which)(?: is|['’]s) (?:wrong|incorrect|false|not (?:right|correct|true)))",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not?|never|false|wrong|incorrect|untrue|doubt|unlikely|if|unless|whether|thought|\w+n['’]t)\b(?:\s+\w+){0,4}\s*$",
    re.IGNORECASE,
)
_UNTRUE = re.compile(
    r"[\s:,;.)\]–—-]*(?:is )?(?:no|false|wrong|incorrect|untrue|not (?:right|correct|true))(?=[.,;!\n]| because|\s*$)",
    re.I,
)  # "B. False", "Option B: wrong", "B) is incorrect because …"
_SUPPOSED = re.compile(r"\b(?:if|unless)\b[^.!?\n]*$", re.IGNORECASE)  # "If it were hot, the answer would be B."
_SPOKEN_OF = re.compile(r"\b[A-Z] (?:is|are|was|can|cannot|could|would|does|has|isn['’]t)\b")  # "A is too cold, so B"
_NAMED = re.compile(r"\b(?:[B-HJ-Z]\b|A(?=[.,;:!?)]))")
_THE_ANSWER = ("The answer is", "The correct answer is")
_MOST_STATED, LONGEST_FIRST = 8, 2_000


@dataclass(frozen=True)
class Reading:
    """The choice that a text names (None: none is read), and how it was found or why not."""

    index: int | None
    form: str


def read_answer(text: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that `text` names, or None where it names none, several, or one not there."""
    return reading(text, choices).index


def reading(text: str, choices: Sequence[str]) -> Reading:
    """Return which choice `text` names, and in which form it does.

    Read are: a letter ("B", "B.", "(b)", "**B**", `\\boxed{B}`), a letter and more ("B. arid", "B" and an explanation
    on the next line), a statement ("The answer is B.", "Answer: B", "Option B", "B is correct."), and a choice's own
    text, alone or stated. Where these disagree, where another letter is listed beside the one, or where the text
    denies or takes back what it says, nothing is read. A text that says "The answer is" more than once is not read
    either: the published evaluators count it so, and a model that goes on often goes on to a question of its own.
    """
    text = text.strip()
    if not text.strip(_QUOTES):
        return Reading(None, EMPTY)
    text = text.rpartition("</think>")[2].strip() or text  # a thought that ended is no answer
    plain = _WRAPPED.sub("", _FACE.sub(r"\1", text)).strip(_QUOTES).translate(_SIGNS)
    own = _same_text(text, choices) or _same_text(plain.rstrip("!"), choices)
    if bare := _BARE.fullmatch(plain):
        return _bare(bare[1], own, choices)
    if own:
        return _decided(own, OWN_TEXT)
    named, form = _named(plain, choices)
    if len(named) == 1 and _contradicted(plain, choices, next(iter(named))):
        named, form = set(), SEVERAL
    return _decided(named, form)


def _bare(letter: str, own: set[int], choices: Sequence[str]) -> Reading:
    """A lone letter is a choice's letter; a small one only where it is not another choice's own text."""
    index = index_of(letter.upper(), choices)
    if letter.islower() and own - {index}:
        return Reading(None, SEVERAL)
    return Reading(index, NONE if index is None else LETTER)


def _decided(named: set[int | None], form: str) -> Reading:
    if len(named) == 1:
        index = next(iter(named))
        return Reading(index, NONE if index is None else form)
    return Reading(None, SEVERAL if named or form == SEVERAL else NONE)


def _named(text: str, choices: Sequence[str]) -> tuple[set[int | None], str]:
    """Return every choice that some part of the text names (None for a letter that is not there), and the form."""
    stated = list(_statements(text, choices))
    if len(stated) > _MOST_STATED or _repeats_answer(text) or any(_weakened(text, choices, *one) for one in stated):
        return set(), SEVERAL
    named, form = {index for index, _, _ in stated}, STATED
    if named:  # "arid. The answer is A."
        named |= _same_text(_SENTENCE.split(text[:LONGEST_FIRST], maxsplit=1)[0], choices)
    leading = _LEADING.match(text)
    if leading:
        letter, known = index_of(leading[1].upper(), choices), _same_text(text[leading.end() :], choices)
        glued = text[leading.end() - 1] not in "\n" and text[leading.end() : leading.end() + 1].isalnum()
        if initial := re.match(r"\s*([A-Z])\.\s", text[leading.end() : leading.end() + 9]):  # "C. S. Lewis"
            glued = glued or index_of(initial[1], choices) is None
        if (glued or leading[1].islower()) and letter not in known:  # "D.C. is …", "a, then": no letter by itself
            return named, form
        if _GOES_ON.match(text, leading.end(1)):
            return set(), SEVERAL
        return named | known | {letter}, LETTER_AND_TEXT
    if not named and (found := _BEHIND.search(text, max(0, len(text) - 5))):
        known = _same_text(text[: found.start()], choices)
        return (known | {index_of(found[1], choices)}, LETTER_AND_TEXT) if known else (set(), NONE)
    if not named and (found := _BEFORE.fullmatch(text)):
        known = _same_text(found[2], choices)
        return (known | {index_of(found[1], choices)}, LETTER_AND_TEXT) if known else (set(), NONE)
    if not named and (found := _BESIDE.fullmatch(text)):
        known = _same_text(found[2], choices)
        if known:
            return known | {index_of(found[1], choices)}, LETTER_AND_TEXT
    if not named and (found := _OWN_IS_RIGHT.fullmatch(text)):
        named = _same_text(found[1], choices)
    if not named and (found := _OWN.fullmatch(text)):
        named = _same_text(found[2], choices)
        if named and found[1]:
            named = named | {index_of(found[1].upper(), choices)}
    return named, form


def _repeats_answer(text: str) -> bool:
    """Whether "The answer is" occurs twice: with a letter anywhere, or with anything before an argument begins."""
    lettered = sum(found[0].startswith(_THE_ANSWER) for found in _TOLD.finditer(text))
    argued = _ARGUED.split(text, maxsplit=1)[0]
    return lettered > 1 or sum(argued.count(words) for words in _THE_ANSWER) > 1


def _statements(text: str, choices: Sequence[str]) -> Iterator[tuple[int | None, int, int]]:
    """Yield (choice, where it begins, where its letter ends) of each statement that the text makes."""
    for _, found in zip(range(_MOST_STATED + 1), _TOLD.finditer(text), strict=False):
        yield index_of((found[1] or found[2]).upper(), choices), found.start(), found.end()
    for _, found in zip(range(_MOST_STATED + 1), _IS_RIGHT.finditer(text), strict=False):
        before = text[max(0, found.start() - 80) : found.start()]
        joined = (_JOINED.search(before) and not _CONCLUDES.search(before)) or _ALL_BUT.search(before)
        yield None if joined else index_of(found[1], choices), found.start(), found.end()
    for found in (_SAYS.fullmatch(text), _FIELD.fullmatch(text), _FOR.match(text)):
        if found:
            yield index_of(found[1].upper(), choices), found.start(), found.end()
    end = text[-LONGEST_FIRST:]
    if (found := _SO.search(end)) and not _NAMED.search(_SPOKEN_OF.sub("", end[: found.start()])):
        yield index_of(found[1], choices), len(text) - len(found[0].lstrip()), len(text)
    for start in sorted({0, text.rfind("\n") + 1}):  # a text begins with its answer or ends in it
        if found := _LABELLED.match(text, start):
            yield index_of(found[1].upper(), choices), start, found.end()
    for box in {box.strip(_QUOTES) for box in _BOXED.findall(text)}:
        letter = _BARE.fullmatch(box)
        for index in {index_of(letter[1].upper(), choices)} if letter else _same_text(box, choices) or {None}:
            yield index, 0, len(text)


def _weakened(text: str, choices: Sequence[str], index: int | None, start: int, end: int) -> bool:
    """Whether a statement is denied or supposed, or another choice is named right after it."""
    near = text[max(0, start - 80) : start]
    before = re.split(r"[.,;:!?\n]", near)[-1]
    supposed = " would " in text[start:end] and _SUPPOSED.search(near)
    beside = {i for i, choice in enumerate(choices) if _begins_beside(text[end:], choice)}
    if supposed or _denied(text[end:], choices) or (beside and index not in beside):
        return True
    argued = _ARGUED.split(text[end:], maxsplit=1)[0]
    return bool(_DENIED.search(before) or _GOES_ON.match(text, end) or _lists_another(argued, choices, index))


def _contradicted(text: str, choices: Sequence[str], index: int | None) -> bool:
    """Whether the text also names another choice beside `index`, or takes back what it states."""
    if index is None:
        return False
    if _TAKEN_BACK.search(_ARGUED.split(text, maxsplit=1)[0]):
        return True
    leading = _LEADING.match(text)
    if leading is None:
        return False
    rest = text[leading.end() :].strip()
    return _denied(rest, choices) or _has_second(rest, choices, index)


def _denied(rest: str, choices: Sequence[str]) -> bool:
    """Whether what follows a letter calls it wrong, and is not a choice's own text, such as "False"."""
    found = _UNTRUE.match(rest[:LONGEST_FIRST])
    return bool(found) and not _same_text(found[0].strip(" :,;.)]–—-"), choices)


def _has_second(text: str, choices: Sequence[str], index: int) -> bool:
    """Whether what follows the letter of choice `index` begins with another's text, or names a second choice."""
    sentence = " ".join(_SENTENCE.split(text)[0].split()).casefold()
    texts = [" ".join(choice.split()).rstrip(".").casefold() for choice in choices]
    begun = [i for i, said in enumerate(texts) if said and _begins(sentence, said)]
    if begun and texts[index] != max((texts[i] for i in begun), key=len):
        return True
    if index in begun:
        rest = sentence[len(texts[index]) :]
        others = (said for i, said in enumerate(texts) if i != index and len(said) > 1 and said not in texts[index])
        if any(re.search(rf"(?<!\w){re.escape(said)}(?!\w)", rest) for said in others):
            return True
    if text.count("because") == 1:  # what argues for the one may speak of the others
        text = re.sub(r"\bbecause\b[^\n;]*", "", text)
    return _lists_another(text.replace(choices[index].strip(), " ", 1), choices, index)


def _lists_another(text: str, choices: Sequence[str], index: int | None) -> bool:
    """Whether another choice's letter stands in the text as in a list: "B.", "(B)", "B," or at the end of a line."""
    letters = {LETTERS[i] for i in range(len(choices)) if i != index}
    return any((found[1] or found[2]) in letters for found in _ENUMERATED.finditer(text))


def _begins_beside(rest: str, choice: str) -> bool:
    """Whether the text behind a letter, "B, arid" or "B (arid)", is that of a choice."""
    separator, lowered = re.match(r"\s*[,:(–—-]\s*", rest), choice.strip().rstrip(".").casefold()
    return bool(separator and lowered) and _begins(rest[separator.end() :].casefold(), lowered)


def _begins(text: str, choice: str) -> bool:
    return text.startswith(choice) and not text[len(choice) : len(choice) + 1].isalnum()


def _same_text(text: str, choices: Sequence[str]) -> set[int]:
    """Return the choices that say `text`; case counts only where choices differ by nothing else."""
    said = " ".join(text.split()).rstrip(".")
    plain = [" ".join(choice.split()).rstrip(".") for choice in choices]
    exact = {index for index, choice in enumerate(plain) if choice == said}
    return exact or {index for index, choice in enumerate(plain) if choice.casefold() == said.casefold()}


def index_of(letter: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice of a capital letter; None where there is none."""
    index = LETTERS.find(letter)
    return index if 0 <= index < len(choices) else None


def forms(readings: Iterable[Reading]) -> dict[str, int]:
    """Return {form: how many texts were read, or not read, so}, the most frequent first."""
    counts = Counter(one.form for one in readings)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
