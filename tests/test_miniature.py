"""The whole way, on real input: `make demo`'s study, run from nothing, keeps what the project promises of it."""

import json
import random
from dataclasses import replace

import pytest

from llava_mistral.miniature import digitsqa_questions as ask
from llava_mistral.miniature.digitsqa_skills import SKILLS
from llava_mistral.miniature.text_documents import (
    END,
    NOT_ASKED,
    Document,
    answer_choice,
    encode,
    text_documents,
    words_of,
)
from llava_mistral.miniature.tokenizer import train_tokenizer
from processing import CHAT_TEMPLATES
from tests.support.running import run_apart

READ = "Read a written digit"
TEMPLATE = (CHAT_TEMPLATES / "mistral_instruct.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documents():
    letters, mixed = text_documents(200, 2200, 4, seed=3)
    return letters + mixed


@pytest.fixture(scope="module")
def tokenizer(documents):
    made = train_tokenizer(words_of(documents), 1100)
    made.add_tokens(["<image>"], special_tokens=True)
    return made


def test_no_document_holds_a_wording_of_val_or_test(documents):
    """Where the text decides; with a picture in words the same wording is asked in every split."""
    asked = {question for document in documents for question, _ in document.turns}
    forbidden = set()
    for skill in SKILLS:
        for seed in range(300):
            draft = skill.make(random.Random(seed))
            if ask.home(draft) in ("val", "test"):
                hint = f"Context: {draft.hint}\n" if draft.hint else ""
                forbidden.add(f"{hint}{draft.question}")
    assert len(forbidden) > 100
    found = [text for text in asked if text.split("\nA. ")[0] in forbidden]
    assert not found


def test_a_document_has_the_ids_of_the_prompt_that_the_template_writes(documents, tokenizer):
    """Patches stand where the picture's tokens do; turns, answers and ends are as in training and in a chat."""

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    for document in [one for one in documents if one.turns][::23]:
        messages = []
        for number, (question, answer) in enumerate(document.turns):
            picture = [{"type": "image"}] if number == 0 and document.patches else []
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False)
        image = tokenizer.convert_tokens_to_ids("<image>")
        whole = ids_of(text.replace("<image>", "<image>" * len(document.patches)))
        ids, places, learned, meanings = encode(document, ids_of)
        ids = [tokenizer.eos_token_id if token == END else token for token in ids]
        asked = [place for place, meaning in enumerate(meanings) if meaning != NOT_ASKED]
        assert [place + 1 for place in asked] == [
            place for place, wanted in enumerate(learned) if wanted and not learned[place - 1]
        ]
        seen = [token for token in whole[1:] if token != image]
        start = whole[1:].index(image) if document.patches else 0
        assert whole[0] == tokenizer.bos_token_id and len(whole) == len(ids) + 1 == len(places) + 1 == len(learned) + 1
        assert seen == ids[:start] + ids[start + len(document.patches) :]


def test_a_completion_tokenised_apart_has_the_ids_of_the_whole(documents, tokenizer):
    """Trainers that tokenise prompt and completion apart, as TRL does, learn what is asked of the model later."""
    assert tokenizer.backend_tokenizer.normalizer is None
    for document in [one for one in documents if one.turns][::7]:
        question, answer = document.turns[0]
        prompt, completion = f"<s>[INST] <image>\n{question} [/INST]", f" {answer} </s>"
        parts = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, completion)]
        assert parts[0] + parts[1] == tokenizer(prompt + completion, add_special_tokens=False).input_ids


def test_a_text_comes_back_from_its_ids(documents, tokenizer):
    for document in documents[::11]:
        for text in (document.text, *(answer for _, answer in document.turns)):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_letter_means_its_choice_and_any_other_answer_itself():
    question = "Which word?\nA. hero\nB. from long ago\nAnswer with the letter."
    assert [answer_choice(question, letter) for letter in "AB"] == ["hero", "from long ago"]
    assert answer_choice("What is it?", "A") == "A" and answer_choice(question, "hero") == "hero"


def test_only_answers_and_captions_are_learned(tokenizer):
    document = Document((("seven", ""),) * 4, (("Which digit is written?", "7"),))
    ids, _, learned, _ = encode(document, lambda text: tokenizer(text, add_special_tokens=False).input_ids)
    assert (
        tokenizer.decode(
            [token for token, wanted in zip(ids, learned, strict=True) if wanted and token != END]
        ).strip()
        == "7"
    )
    assert learned.index(True) > 4


def test_each_seed_has_a_tower_and_a_text_model_of_its_own(tmp_path, monkeypatch):
    from llava_mistral.ground.recipe_files import recipe_file
    from llava_mistral.miniature import digitsqa
    from llava_mistral.miniature.components import ComponentsConfig, make_components

    for split in digitsqa.SPLIT_SIZES:
        monkeypatch.setitem(digitsqa.SPLIT_SIZES, split, 28)
    monkeypatch.setattr(digitsqa, "ALIGNMENT_SIZE", 64)
    (tmp_path / "data").mkdir()
    digitsqa.build(tmp_path / "data")
    config = ComponentsConfig.from_yaml(recipe_file("miniature/components"))
    config = replace(config, clip_epochs=1, clip_batch_size=32, letter_documents=64, text_documents=160)
    weights = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        make_components(tmp_path / "data", replace(config, seed=seed), tmp_path / name)
        weights[name] = [(tmp_path / name / part / "model.safetensors").read_bytes() for part in ("vision", "mistral")]
    assert weights["first"] == weights["again"]
    assert all(a != b for a, b in zip(weights["first"], weights["other"], strict=True))
    assert json.loads((tmp_path / "first" / "mistral" / "config.json").read_text())["head_dim"] == 32
    make_components(tmp_path / "data", replace(config, backbones=[]), tmp_path / "alone")  # as for a real decoder
    assert (tmp_path / "alone" / "vision" / "model.safetensors").read_bytes() == weights["first"][0]


COMMAND = ("-m", "llava_mistral", "study", "--config", "miniature/study", "--output")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's folder and what it printed."""
    out = tmp_path_factory.mktemp("study") / "miniature"
    return out, run_apart(*COMMAND, out, HF_HUB_OFFLINE="0", timeout=1500).stdout


@pytest.mark.slow
def test_the_miniature_study_sees(study):
    out, said = study
    assert "logits equal bit for bit (text and image prompt)" in said and "the pipeline answers" in said

    real, blank = (
        json.loads((out / "results" / name / "summary.json").read_text()) for name in ("stage2", "stage2/blank")
    )
    assert real["skills"][READ]["accuracy"] >= 90  # chance is 25
    assert blank["skills"][READ]["accuracy"] <= 45
    manifest = json.loads((out / "digitsqa-pruned" / "manifest.json").read_text())
    problems = json.loads((out / "digitsqa" / "problems.json").read_text())
    train = [pid for pid, problem in problems.items() if problem["split"] == "train"]
    assert len(manifest["kept"]) * 6 <= 2 * len(train)  # by letter and open
    assert (out / "result.png").stat().st_size > 10_000
    assert "every step is done" in run_apart(*COMMAND, out).stdout


@pytest.mark.slow
def test_the_miniature_answers_people(study):
    """Nine of ten held-out digits named without choices; it stops by itself, without a picture, too."""
    out, _ = study
    counts = json.loads((out / "results" / "stage2-open" / "open.json").read_text())
    assert counts["digit"]["accuracy"] >= 90 and counts["digit"]["stopped"] == counts["digit"]["n"]
    assert counts["text"]["stopped"] >= 0.98 * counts["text"]["n"]


@pytest.mark.slow
def test_the_six_lines_of_the_readme_answer(study):
    """As a stranger pastes them: the pipeline, a picture by its path, no choices, a short answer."""
    from transformers import pipeline

    from llava_mistral.data.scienceqa import read_problems

    out, _ = study
    chat = pipeline("image-text-to-text", model=str(out / "stage2"), trust_remote_code=True)
    problems = [p for p in read_problems(out / "digitsqa", split="test") if p.skill == READ]
    right = 0
    for problem in problems:
        question = [{"type": "image", "path": str(problem.image)}, {"type": "text", "text": "Which digit is written?"}]
        answer = chat(text=[{"role": "user", "content": question}], max_new_tokens=16, return_full_text=False)
        right += answer[0]["generated_text"].strip() == problem.choices[problem.answer]
    assert right >= 0.9 * len(problems)


@pytest.mark.slow
def test_a_model_tells_needed_pictures_from_decorative_ones(study, tmp_path):
    """By what it answers with and without the picture, of the training questions that it was not trained on."""
    from sklearn.metrics import roc_auc_score

    from llava_mistral.data.scienceqa import read_problems
    from llava_mistral.pruning.model_evidence import ModelEvidence, pooled_gains
    from llava_mistral.pruning.principles import score

    out, _ = study
    given = ("--dataset", out / "digitsqa", "--method", "principles", "--size", 300, "--scorer", out / "stage2")
    run_apart("-m", "llava_mistral", "prune", *given, "--output", tmp_path / "asked", timeout=1500)
    real, blank = (
        {row["pid"]: row["letters"] for row in map(json.loads, path.read_text().splitlines()[1:])}
        for path in (tmp_path / "asked.scores" / name for name in ("predictions.jsonl", "blank/predictions.jsonl"))
    )
    problems = read_problems(out / "digitsqa", split="train")
    pictured = [problem for problem in problems if problem.has_image]
    assert {problem.pid for problem in pictured} == set(real) == set(blank)
    asked = {p.pid: ModelEvidence(real[p.pid][p.answer], blank[p.pid][p.answer]) for p in pictured}
    kept = json.loads((out / "digitsqa-pruned" / "manifest.json").read_text())["kept"]
    trained = {name.removesuffix("-open") for name in kept}
    judged = [problem for problem in pictured if problem.pid not in trained]
    truth = [problem.image_needed for problem in judged]
    gains = pooled_gains(judged, asked)
    auc = roc_auc_score(truth, [gains[problem.pid] for problem in judged])
    assert auc >= 0.95
    scores = dict(zip([problem.pid for problem in problems], score(problems, asked), strict=True))
    assert roc_auc_score(truth, [scores[problem.pid].necessity for problem in judged]) >= 0.95
