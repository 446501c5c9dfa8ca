"""Free answers are compared by a rule of one's choice; what a rule cannot compare is unread, never guessed."""

import re
import time

import pytest

from llava_mistral.evaluation.matching import RULES, by_pattern, check_answer, match_of, normalised, numbers
from llava_mistral.ground.bad_input import BadInput

RIGHT = {
    "exact": [("a cat", "a cat"), (" a cat\n", "a cat")],
    "normalised": [("The cat.", "a cat"), ("CAT", "cat"), ("twenty-one", "twenty one"), ("1,000", "1000"), ("A.", "A")]
    + [("**cat**", "cat"), ("an", "An"), ("+", "+"), ("C++", "C++"), ("“cat”", "cat")],
    "numeric": [
        ("There are 3.", "3"),
        ("1,000 apples", "1e3"),
        ("-5", "−5"),
        ("it is .5", "0.50"),
        ("5cm", "5"),
        ("50 %", "50"),
    ]
    + [("3, so 3", "3")],
    "yes_no": [("Yes, it is.", "yes"), ("no", "No."), ("I would say no", "no")],
    "f1": [("the cat", "a cat"), ("on the mat", "mat on")],
}
WRONG = {
    "exact": [("cat.", "cat"), ("Cat", "cat")],
    "normalised": [("a cat and a dog", "cat"), ("-5", "5"), ("3.5", "35"), ("C", "C++"), ("B", "A"), ("+", "-")],
    "numeric": [("4", "3"), ("-3", "3"), ("0.3", "3"), ("22nd", "2")],
    "yes_no": [("yes", "no")],
    "f1": [("dog", "cat")],
}
UNREAD = {
    "exact": ["", "  \n"],
    "normalised": [""],
    "numeric": ["", "none", "3 or 4", "2-3"],
    "yes_no": ["", "yes and no", "maybe", "nothing", "eyes"],
    "f1": ["", "..."],
}


@pytest.mark.parametrize(("rule", "pair"), [(rule, pair) for rule, pairs in RIGHT.items() for pair in pairs])
def test_what_says_the_answer_is_right(rule, pair):
    assert RULES[rule](*pair) == 1


@pytest.mark.parametrize(("rule", "pair"), [(rule, pair) for rule, pairs in WRONG.items() for pair in pairs])
def test_what_says_another_answer_is_wrong(rule, pair):
    assert RULES[rule](*pair) == 0


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in UNREAD.items() for text in texts])
def test_what_says_nothing_that_can_be_compared_is_unread(rule, text):
    assert RULES[rule](text, {"numeric": "3", "yes_no": "yes"}.get(rule, "cat")) is None


def test_token_f1_is_that_of_squad():
    assert RULES["f1"]("a black cat sat", "the cat sat down") == pytest.approx(2 * 2 / (3 + 3))
    assert RULES["f1"]("cat cat", "cat") == pytest.approx(2 / 3), "a word counts as often as both have it"


def test_a_pattern_finds_the_answer_in_a_text():
    rule = match_of(r"regex:(?i)answer:\s*(\w+)")
    assert [rule.score(text, "Cat") for text in ("So: ANSWER: cat!", "answer: dog", "cat")] == [1, 0, None]
    assert by_pattern(re.compile(r"\d+"))("about 12 or so", "12") == 1
    assert by_pattern(re.compile(r"(x)?y"))("y", "x") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [("fuzzy", "'fuzzy' is unknown; use exact, normalised, numeric"), ("regex:(", "is not a regular expression")],
)
def test_an_unknown_rule_is_refused(name, said):
    with pytest.raises(BadInput, match=said):
        match_of(name)


@pytest.mark.parametrize(
    ("rule", "answer", "said"),
    [
        ("numeric", "many", "holds no number"),
        ("numeric", "3 or 4", "or several"),
        ("yes_no", "maybe", "neither yes nor no"),
        ("exact", " ", "is empty"),
    ],
)
def test_a_right_answer_that_a_rule_can_never_find_is_refused_by_record(rule, answer, said):
    with pytest.raises(BadInput, match=rf"record 7: field answer: .*{said}"):
        check_answer(match_of(rule), answer, file="data", record="7")
    check_answer(match_of(rule), {"numeric": "3", "yes_no": "Yes"}.get(rule, "a"), file="data", record="7")


def test_normal_form_and_numbers():
    assert normalised("The  Cat's (black) hat, e.g. 1,000.5!") == "cat s black hat e g 1000.5"
    assert numbers("1,234.5 and -2 or 1e3") == {1234.5, -2.0, 1000.0}


@pytest.mark.parametrize("piece", ["1", "1,000", "a ", "-", ".", "yes ", "1.", " "])
def test_rules_take_time_in_proportion_to_the_text(piece):
    def seconds(length: int) -> float:
        begun = time.process_time()
        for rule in RULES.values():
            rule(piece * (length // len(piece)), "3")
        return time.process_time() - begun

    short = min(seconds(10_000) for _ in range(3))
    assert seconds(100_000) < 30 * short + 0.05
