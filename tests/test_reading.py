"""Which choice a text names: each form is a row, and a text that names several choices is read as none."""

import time

import pytest

from llava_mistral.evaluation.other_readers import READERS, llava_rule, lmms_eval_rule, read_by_each
from llava_mistral.evaluation.reading import (
    EMPTY,
    LETTER,
    LETTER_AND_TEXT,
    NONE,
    OWN_TEXT,
    SEVERAL,
    STATED,
    forms,
    read_answer,
    reading,
)

CLIMATES = ("tropical", "arid", "Both are warm.", "polar")
SECOND = {
    LETTER: [
        "B",
        " B\n",
        "B.",
        "B)",
        "(B)",
        "(B).",
        "[B]",
        "b",
        "(b)",
        "b.",
        "**B**",
        "*B*",
        "_B_",
        "`B`",
        '"B"',
        "'B'",
    ]
    + ["B．", "（B）", "Ｂ", "B。", "«B»", "「B」", "B</s>", "<think>A? No.</think>B", "B", "[B]."]
    + ["B!", "$B$", "\\text{B}", "\\textbf{B}", "<answer>B</answer>"],
    LETTER_AND_TEXT: ["B. arid", "B: arid", "B) arid", "(B) arid", "B - arid", "B – arid", "b. arid", "(b) arid"]
    + [
        "B. Arid.",
        "**B. arid**",
        "**B.** arid",
        "B.arid",
        "arid (B)",
        "B. It rains little there.",
        "(B) It rains little.",
    ]
    + [
        "B, because it rains little.",
        "B\nExplanation",
        "B\n\nExplanation: it is dry.",
        "B. arid\n\nNot so the polar air.",
        "B arid",
        "B = arid",
        "B）arid",
    ],
    STATED: ["The answer is B.", "The answer is B", "The answer is b.", "The answer is (B).", "The answer is **B**."]
    + ['The answer is "B".', "The answer is: B", "The correct answer is (B).", "The correct option is B."]
    + ["The answer is (B) arid.", "The answer is B arid.", "The answer is B: arid", "The answer is option B."]
    + ["It rains little. The answer is B.", "The answer is B. BECAUSE: it rains little.", "My answer is B."]
    + ["The answer is B because it rains little.", "The answer is B. So, the answer is B.", "The final answer is B."]
    + ["Answer: B", "answer: b", "**Answer:** B", "Answer: **B**", "Answer: B. arid", "Answer: (B) arid", "Answer B"]
    + ["Final answer: B", "Option B", "Choice B", "Option B: arid", "Option B is correct.", "B is correct."]
    + ["B is the correct answer.", "I would choose B.", "It is B.", "The answer is arid.", "Answer: arid"]
    + ["\\boxed{B}", "$\\boxed{B}$", "\\boxed{\\text{B}}", "\\boxed{arid}", "The answer is $\\boxed{B}$."]
    + [
        "Answer: The answer is B",
        "I think the answer is B.",
        "The answer is choice (B)",
        "### Answer\n\nB",
        "Answer: Option B",
    ]
    + ["Option B is right because A is too cold.", "A is too cold. C is too wet. The answer is B.", "Answer - B"]
    + ["The answer is B.\n\nExplanation: arid is dry and polar is cold."]
    + ["The answer must be B.", "The answer should be (B).", "The answer is probably B.", "Answer = B", "My answer: B"]
    + [
        "答案：B",
        "答案是B。",
        "Réponse : B",
        "La respuesta es B.",
        "Antwort: B",
        '{"answer": "B"}',
        "The answer is 'B'.",
    ]
    + [
        "Option C is wrong, so B",
        "A is too cold, so B.",
        "Therefore, B.",
        "Hence B",
        "So, B is correct.",
        "It must be B.",
    ]
    + [
        "I think B.",
        "I'd go with B.",
        "B because it is dry.",
        "B because A is wet.",
        "Arid is the answer.",
        "It's arid.",
    ]
    + ["It is dry there.\nAnswer: B", "It is dry there, so \\boxed{B}."]
    + [
        "The answer is B, arid.",
        "Answer: B\nExplanation: A is wrong.",
        "B, because A is wrong.",
    ]
    + ["A is wet. C is cold. Therefore, the answer is B.", "C is incorrect; the answer is B."],
    OWN_TEXT: ["**arid**", '"Arid"', "arid!", "arid", "Arid.", "ARID"],
}
UNREAD = {
    EMPTY: ["", " ", "**", '""'],
    NONE: [
        "E",
        "E. arid",
        "The answer is E.",
        "A or B",
        "B is the warm one.",
        "A desert is arid.",
        "Because it is dry",
    ]
    + [
        "The answer is A desert.",
        "arid polar",
        "arid or polar",
        "Neither A nor B",
        "All of the above",
        "A B",
        "AB",
        "?",
    ]
    + ["D.C. is the capital", "Not B.", "B is not correct.", "B is incorrect.", "The answer is not B."]
    + ["The answer could be B.", "The answer is neither A nor B.", "a desert"],
    SEVERAL: ["A, B", "A; B", "A. B. C.", "(A), (B)", "A\nB", "B.\nC.", "A. tropical\nB. arid", "A. tropical B. arid"]
    + [
        "(A) tropical (B) arid",
        "a. tropical\nb. arid",
        "A: tropical, B: arid",
        "A. tropical and arid",
        "A. tropical or polar",
    ]
    + ["B. tropical", "A. arid climate", "Answer: A, B", "Answer: A or B", "Answer: A\nAnswer: B", "**A**, **B**"]
    + ["The answer is A, B, or C.", "The answer is A or B.", "The answer is A and B.", "The answer is (A) or (B)."]
    + ["B. False", "B: no", "It must be A, so B", "So A, so B", "C, so B", "A because it is hot, B because it is dry"]
    + ["A, because it is hot.\nB, because it is dry.", "A、B", "A，B", "（A）（B）", "答案：A、B", "I think A or B"]
    + ["The answer must be A or B.", '{"answer": ["A", "B"]}', "The answer should be B, but it is A."]
    + ["The answer is A/B.", "The answer is A: tropical or B: arid", "\\boxed{A} or \\boxed{B}"]
    + ["The answer is A. So, the answer is B.", "The answer is A. The answer is A.", "B. The answer is A."]
    + ["The answer is B. Next question. The answer is B."]
    + ["The answer is A. No, wait, it is B.", "B\nWait, no. C", "B. Actually, C.", "The answer is A. Sorry, it is B."]
    + ["The answer is A. Correction: B.", "The answer is B, I mean C.", "B. That is wrong."]
    + ["The answer is B. Just kidding, C.", "A...B", "B, C and D are wrong", "A, B are both right"]
    + [
        "arid. The answer is A.",
        "The answer is tropical. The answer is B.",
        "A is correct. B is correct.",
        "A: no. B: yes.",
    ]
    + ["A and B is correct", "It is not true that B is correct.", "If B is correct, so be it", "Option A, Option B"]
    + ["The answer is B, tropical.", "The answer is B (polar).", "Option B: wrong", "B) is incorrect", "B is wrong."]
    + ["If it rained little, the answer would be B.", "Everything but B is correct", "B) is wrong because it is wet."]
    + ["The answer is anything but B.", "B. L. Smith", "All of them except B are correct.", "Answer: B is wrong"]
    + ["It is false that the answer is A. It is B.", "I do not think that the answer is B."],
}


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in SECOND.items() for text in texts])
def test_a_text_that_names_the_second_choice_is_read_so(form, text):
    assert reading(text, CLIMATES).index == 1
    if form != STATED:
        assert reading(text, CLIMATES).form == form


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in UNREAD.items() for text in texts])
def test_a_text_that_names_none_or_several_is_read_as_none(form, text):
    found = reading(text, CLIMATES)
    assert found.index is None
    assert found.form in ((NONE, SEVERAL) if form != EMPTY else (EMPTY,))


def test_case_tells_choices_apart_only_where_nothing_else_does():
    choices = ("Dear Ann,", "dear Ann,")
    assert [read_answer(text, choices) for text in ("dear Ann,", "A. Dear Ann,", "DEAR ANN,")] == [1, 0, None]
    assert read_answer("BOTH ARE WARM", CLIMATES) == 2


def test_a_choice_that_holds_letters_or_another_choice_can_be_named():
    assert read_answer("C. A and B", ("one", "two", "A and B")) == 2
    assert read_answer("A, B", ("A, B", "C, D")) == 0
    assert read_answer("B. Vitamin C", ("vitamin A", "Vitamin C")) == 1
    assert read_answer("A. New York City", ("New York City", "New York")) == 0
    assert read_answer("B. Washington, D.C.", ("Paris", "Washington, D.C.", "Rome", "Bern")) == 1
    assert read_answer("b", ("b", "a")) is None, "the letter of the second or the text of the first"
    assert read_answer("B", ("C", "D")) == 1


def test_other_evaluators_read_by_their_own_rules():
    """LLaVA's eval_science_qa.py and lmms-eval's scienceqa task."""
    texts = [
        "B",
        "B. arid",
        "B\nExplanation",
        "The answer is B.",
        "The answer is B or A",
        "(B)",
        "B.arid",
        "arid",
        "A, B",
    ]
    assert [llava_rule(text, CLIMATES) for text in texts] == [1, 1, 1, 1, 1, None, None, None, None]
    assert [lmms_eval_rule(text, CLIMATES) for text in texts] == [1, 1, None, None, None, None, 1, None, None]
    assert llava_rule("D", CLIMATES[:3]) is None and lmms_eval_rule("E. x", CLIMATES) is None


def test_three_readers_are_put_side_by_side_with_what_each_leaves_unread():
    found = read_by_each(
        [("B", CLIMATES, 1), ("The answer is B.", CLIMATES, 1), ("arid", CLIMATES, 1), ("A", CLIMATES, 1)]
    )
    assert {name: (cell["accuracy"], cell["unread_share"]) for name, cell in found.items()} == {
        "ours": (75, 0),
        "LLaVA": (50, 25),
        "lmms-eval": (25, 50),
    }
    assert forms([reading(text, CLIMATES) for text in ("A", "B", "", "A, B")]) == {LETTER: 2, EMPTY: 1, SEVERAL: 1}


@pytest.mark.parametrize(
    "piece",
    [
        "A",
        "A, ",
        "A. ",
        "(A",
        " ",
        "\n",
        "The answer is ",
        "The answer is A. ",
        "not ",
        "\\boxed{",
        "\\boxed{A} ",
        "**",
        '"',
    ]
    + ["the final correct ", "Answer: ", "x" * 7, "no not the answer is A", "i would choose ", "it is ", "\\text{"],
)
def test_reading_takes_time_in_proportion_to_the_text(piece):
    """A model that never stops may write megabytes; ten times the text takes about ten times as long."""

    def seconds(length: int) -> float:
        text = "B. arid " + piece * (length // len(piece))
        begun = time.process_time()
        (
            reading(text, CLIMATES),
            reading(text[8:], CLIMATES),
            llava_rule(text, CLIMATES),
            lmms_eval_rule(text, CLIMATES),
        )
        return time.process_time() - begun

    short = min(seconds(20_000) for _ in range(3))
    assert seconds(200_000) < 30 * short + 0.05


def test_every_pattern_is_of_this_table():
    assert {LETTER, LETTER_AND_TEXT, STATED, OWN_TEXT} == SECOND.keys() and {EMPTY, NONE, SEVERAL} == UNREAD.keys()
    assert set(READERS) == {"ours", "LLaVA", "lmms-eval"}
