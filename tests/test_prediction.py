"""A checkpoint answers in batches what it answers alone; answers survive an interruption; blank pictures are grey."""

import json
import random

import pytest
from PIL import Image

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.asking import MID_GREY, Checkpoint, check_checkpoint, pictures_of
from llava_mistral.evaluation.journal import Answer, AnswerSettings, Journal
from llava_mistral.evaluation.prediction import answer_problems
from llava_mistral.ground.bad_input import BadInput
from tests.support.tiny_llava import TEMPLATE, WORDS, save_tiny_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava"))


@pytest.fixture(scope="module")
def checkpoint(folder):
    return Checkpoint(folder)


def make_problems(count: int) -> list[Problem]:
    """Questions of many lengths, half of them with a picture of noise."""
    rng = random.Random(0)
    problems = []
    for index in range(count):
        words = " ".join(rng.choice(WORDS.split()) for _ in range(rng.randint(3, 40)))
        image = Image.frombytes("L", (8, 8), rng.randbytes(64)).convert("RGB") if index % 2 else None
        choices = ("one", "two", "three", "four")[: rng.randint(2, 4)]
        answer = rng.randrange(len(choices))
        problems.append(Problem(str(index), words, choices, answer, hint="", image=image, has_image=bool(image)))
    return problems


def answers_with(folder, problems, **asked):
    return answer_problems(folder, problems, AnswerSettings(**asked))["real"]


def test_batches_answer_as_one_question_at_a_time_does(folder):
    problems = make_problems(40)
    alone, batched = (answers_with(folder, problems, batch_size=size, max_new_tokens=4) for size in (1, 16))
    assert len({answer.output for answer in alone.values()}) > 5, "the questions must differ in their answers"
    for pid, answer in alone.items():
        assert batched[pid].output == answer.output
        assert batched[pid].letters == pytest.approx(answer.letters, abs=1e-4)


def test_answers_are_those_of_plain_generate(checkpoint, folder):
    import torch

    problems = make_problems(6)
    answers = answers_with(folder, problems, max_new_tokens=4)
    for problem in problems:
        content = [{"type": "image"}] * problem.has_image
        content += [{"type": "text", "text": checkpoint.prompt(problem).split("[INST] ")[1].removesuffix(" [/INST]")}]
        content[-1]["text"] = content[-1]["text"].removeprefix("<image> ")
        text = checkpoint.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        images = [problem.image] if problem.has_image else None
        inputs = checkpoint.processor(text=text, images=images, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            ids = checkpoint.model.generate(**inputs, do_sample=False, max_new_tokens=4)
            logits = checkpoint.model(**inputs).logits[0, -1].log_softmax(-1)
        written = checkpoint.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answers[problem.pid].output == written.strip()
        letters = checkpoint.processor.tokenizer.convert_tokens_to_ids(list("ABCD")[: len(problem.choices)])
        assert answers[problem.pid].letters == pytest.approx(logits[letters].tolist(), abs=1e-4)


def test_likelihood_alone_gives_the_likelihoods_that_come_with_generation(folder):
    problems = make_problems(20)
    generated, alone = (answers_with(folder, problems, scoring=name) for name in ("generated", "likelihood"))
    for problem in problems:
        assert alone[problem.pid].output is None
        assert alone[problem.pid].letters == pytest.approx(generated[problem.pid].letters, abs=1e-4)
        assert alone[problem.pid].choice(problem, "likelihood") in range(len(problem.choices))


def test_tokens_that_every_answer_begins_with_come_before_the_letter(tmp_path, folder):
    """A template may put something between the prompt and the letter; the letter is then looked for after it."""
    led = TEMPLATE.replace(" {{ p['text'] }} ", " Answer : {{ p['text'] }} ")
    problems = make_problems(4)
    checkpoint = Checkpoint(folder, chat_template=led)
    tokens = checkpoint.processor.tokenizer.convert_ids_to_tokens
    assert (tokens(checkpoint.lead), tokens(checkpoint.letter_ids)[:2]) == (["Answer", ":"], ["A", "B"])
    with_lead = answers_with(folder, problems, chat_template=led)
    assert with_lead["0"].letters != pytest.approx(answers_with(folder, problems)["0"].letters, abs=1e-4)


def test_blank_pictures_are_grey_of_the_same_size_and_change_the_answers(folder):
    problems = make_problems(20)
    blank = pictures_of(problems[1], "blank")[0]
    assert (blank.size, blank.getpixel((3, 3))) == (problems[1].image.size, MID_GREY)
    answers = answer_problems(folder, problems, AnswerSettings(), images=("real", "blank"))
    changed = {p.pid for p in problems if answers["real"][p.pid].letters != answers["blank"][p.pid].letters}
    assert changed and changed <= {p.pid for p in problems if p.has_image}


def test_a_run_that_was_cut_off_asks_only_what_is_left(folder, tmp_path, monkeypatch):
    """From the batch on that was cut off, which is asked whole, so that the journal ends in the same bytes."""
    problems, asks = make_problems(20), AnswerSettings(batch_size=4)
    whole = answer_problems(folder, problems, asks, folder=tmp_path)["real"]
    path = tmp_path / "predictions.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:15]) + lines[15][:9])
    asked = []
    answer = Checkpoint.answer
    monkeypatch.setattr(Checkpoint, "answer", lambda *args: asked.extend(args[1]) or answer(*args))
    assert answer_problems(folder, problems, asks, folder=tmp_path)["real"] == whole
    assert len(asked) == 20 - 12 and path.read_bytes() == content
    monkeypatch.setattr(Checkpoint, "__init__", lambda *args, **kwargs: pytest.fail("nothing is left to ask"))
    assert answer_problems(folder, problems, asks, folder=tmp_path)["real"] == whole


def test_answers_of_another_run_are_not_gone_on_with(folder, tmp_path):
    problems = make_problems(4)
    answer_problems(folder, problems, AnswerSettings(), folder=tmp_path)
    with pytest.raises(BadInput, match=r"another run \(max_new_tokens differ\)"):
        answer_problems(folder, problems, AnswerSettings(max_new_tokens=3), folder=tmp_path)
    with pytest.raises(BadInput, match=r"another run \(questions differ\)"):
        answer_problems(folder, problems[:3], AnswerSettings(), folder=tmp_path)
    (tmp_path / "predictions.jsonl").write_text("{\n")
    with pytest.raises(BadInput, match="remove the file to ask again"):
        answer_problems(folder, problems, AnswerSettings(), folder=tmp_path)


def test_600_questions_are_asked_in_full_batches_of_like_length(folder, monkeypatch):
    """A third of the time would go into padding if the batches took the questions as they come."""
    problems, size = make_problems(600), AnswerSettings().batch_size
    batches, answer = [], Checkpoint.answer

    def counted(self, batch, inputs, settings):
        batches.append(inputs["attention_mask"])
        return answer(self, batch, inputs, settings)

    monkeypatch.setattr(Checkpoint, "answer", counted)
    answers_with(folder, problems, max_new_tokens=4)
    assert len(batches) == -(-len(problems) // size) and sum(len(mask) for mask in batches) == len(problems)
    assert sum(mask.numel() for mask in batches) < 1.1 * sum(int(mask.sum()) for mask in batches)


def test_a_template_that_drops_the_question_is_refused(folder):
    with pytest.raises(BadInput, match="field chat_template: the chat template drops the question"):
        Checkpoint(folder, chat_template="{{ bos_token }}{% for m in messages %}<image>{% endfor %}")


def test_a_checkpoint_with_a_weight_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_llava(tmp_path / "torn")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file(
        {key: value for key, value in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(BadInput, match="1 weights are missing"):
        Checkpoint(str(folder))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    for name, says in ((tmp_path / "absent", "no such checkpoint"), (tmp_path, "no [*].safetensors")):
        with pytest.raises(BadInput, match=says):
            check_checkpoint(str(name))
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadInput, match="no config.json"):
        check_checkpoint(str(tmp_path))


def test_pictures_that_are_absent_or_broken_are_named(tmp_path):
    problem = Problem("7", "Which?", ("one", "two"), 0, has_image=True)
    with pytest.raises(BadInput, match="record 7: field image: 1 pictures are not at hand"):
        pictures_of(problem, "real")[0]
    (tmp_path / "page.png").write_text("<html>")
    broken = Problem("7", "Which?", ("one", "two"), 0, image=tmp_path / "page.png", has_image=True)
    with pytest.raises(BadInput, match="page.png: record 7: field image: .*page.png is not a JPEG, PNG"):
        pictures_of(broken, "real")[0]


def test_a_journal_line_is_an_answer(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl", {"questions": "x"})
    journal.append([Answer("1", "B", (-1.0, -0.5))])
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"pid": "1", "output": "B", "letters": [-1.0, -0.5]}
    assert Journal(tmp_path / "predictions.jsonl", {"questions": "x"}).answers == journal.answers
