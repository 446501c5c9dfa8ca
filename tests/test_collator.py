"""What carries loss: the answer and the template's end, after exactly the prompt that inference would give."""

import pytest

from llava_mistral.ground.bad_input import BadInput
from tests.support.running import HOME
from tests.support.tiny_components import IMAGE_TOKENS, TEXT_ROW

TEMPLATES = HOME / "processing" / "chat_templates"


@pytest.fixture(scope="module")
def processor(stage0):
    from processing import LlavaMistralProcessor

    return LlavaMistralProcessor.from_pretrained(stage0)


@pytest.fixture(scope="module")
def rows(rows_file):
    from llava_mistral.data.conversations import read_rows

    return list(read_rows(rows_file))


def with_template(processor, name: str):
    processor.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return processor


def collate(processor, rows):
    from llava_mistral.training.collator import AnswerCollator

    return AnswerCollator(processor)(rows)


LONG_ROW = {**TEXT_ROW, "id": "long", "completion": [{"role": "assistant", "content": "It is four. " * 12}]}


@pytest.mark.parametrize(
    ("template", "ending"), [("mistral_instruct", " </s>"), ("vicuna_v1", "</s>"), ("plain", "\n")]
)
def test_only_the_answer_and_the_templates_end_carry_loss(processor, rows, template, ending):
    """On every row of a mixed, padded batch; never an image token, never padding."""
    batch = collate(with_template(processor, template), [*rows[:3], TEXT_ROW, LONG_ROW])
    tokenizer = processor.tokenizer
    for index, row in enumerate([*rows[:3], TEXT_ROW, LONG_ROW]):
        labels, ids = batch["labels"][index], batch["input_ids"][index]
        learned = labels != -100
        assert (labels[learned] == ids[learned]).all()
        assert tokenizer.decode(ids[learned]).strip() == (row["completion"][0]["content"] + ending).strip()
        first, last = learned.nonzero().flatten()[[0, -1]].tolist()
        assert learned[first : last + 1].all(), "the answer is one piece"
        assert batch["attention_mask"][index, last + 1 :].sum() == 0, "and its end is the row's"
        assert (labels[ids == processor.image_token_id] == -100).all()
        assert (labels[batch["attention_mask"][index] == 0] == -100).all()
        assert int((ids == processor.image_token_id).sum()) == IMAGE_TOKENS * len(row["images"])


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1", "plain"])
def test_the_trained_prompt_is_the_inference_prompt_token_for_token(processor, rows, template):
    with_template(processor, template)
    chosen = [rows[0], TEXT_ROW]
    batch = collate(processor, chosen)
    words = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    for index, row in enumerate(chosen):
        pictures = [{"type": "image", "image": picture} for picture in row["images"]]
        text = {"type": "text", "text": row["prompt"][0]["content"]}
        asked = processor.apply_chat_template([{"role": "user", "content": [*pictures, text]}], **words)
        start = int((batch["labels"][index] != -100).nonzero()[0])
        assert batch["input_ids"][index, :start].tolist() == asked["input_ids"][0].tolist()
        if pictures:
            assert batch["pixel_values"][0].equal(asked["pixel_values"][0])


def test_the_answer_begins_as_generation_would_begin_it(processor, rows):
    """The answer's tokens are those of the whole conversation, not of the answer tokenised apart."""
    with_template(processor, "mistral_instruct")
    batch = collate(processor, rows[:1])
    whole = "<s>[INST] <image>\nWhich digit is written? [/INST] It is zero. </s>"
    ids = processor(images=rows[0]["images"], text=[whole], add_special_tokens=False, return_tensors="pt").input_ids
    assert batch["input_ids"].tolist() == ids.tolist()


def test_a_batch_without_pictures_has_no_pixels(processor):
    assert "pixel_values" not in collate(with_template(processor, "mistral_instruct"), [TEXT_ROW, LONG_ROW])


def test_a_row_without_an_answer_is_refused(processor):
    row = {**TEXT_ROW, "completion": []}
    with pytest.raises(BadInput, match="there is no answer to learn; give a completion"):
        collate(with_template(processor, "mistral_instruct"), [row])


def test_a_template_that_words_the_prompt_twice_is_refused(processor):
    processor.chat_template = (
        "{{ '1' if messages[-1]['role'] == 'assistant' else '2' }}"
        "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    )
    with pytest.raises(BadInput, match="words the prompt differently once the answer follows"):
        collate(processor, [TEXT_ROW])


def test_the_letter_that_is_scored_is_the_letter_that_was_trained(stage0):
    """Likelihood scoring reads the logit of the very token that carried the loss, for every letter."""
    from llava_mistral.data.scienceqa import LETTERS
    from llava_mistral.evaluation.asking import Checkpoint

    checkpoint = Checkpoint(str(stage0))
    for place, letter in enumerate(LETTERS):
        completion = [{"role": "assistant", "content": letter}]
        row = {"images": [], "prompt": [{"role": "user", "content": "?"}], "completion": completion}
        batch = collate(checkpoint.processor, [row])
        learned = [token for token in batch["labels"][0].tolist() if token != -100]
        scored = [*checkpoint.lead, checkpoint.letter_ids[place]]
        assert learned[: len(scored)] == scored


def say(role: str, text: str, **more) -> dict:
    return {"role": role, "content": text, **more}


TURNS = [say("assistant", "one"), say("user", "and then?"), say("assistant", "two words"), say("user", "and?")]
MANY = {**TEXT_ROW, "id": "many", "completion": [*TURNS, say("assistant", "three")]}


def learned_of(processor, row, packed: bool = False) -> str:
    """What carries loss in the second row of a batch, the pieces parted by a bar."""
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.packing import PackedCollator

    collator = AnswerCollator(processor)
    batch = PackedCollator(collator)([TEXT_ROW, row]) if packed else collator([TEXT_ROW, row])
    start = int(batch["cu_seq_lens_q"][1]) if packed else 0
    ids, labels = batch["input_ids"][-1, start:], batch["labels"][-1, start:]
    pieces, piece = [], []
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        if label != -100:
            piece.append(token)
        elif piece:
            pieces, piece = [*pieces, piece], []
    return " | ".join(processor.tokenizer.decode(piece).strip() for piece in (*pieces, piece) if piece)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
def test_nobody_else_is_learned_inside_a_completion(processor, template, packed):
    """Each answer with the template's end, as if it were the last; the users between them are read and not learned."""
    with_template(processor, template)
    one, two, three = learned_of(processor, MANY, packed).split(" | ")
    assert [text.removesuffix("</s>").strip() for text in (one, two, three)] == ["one", "two words", "three"]
    for place, text in ((1, one), (3, two), (5, three)):
        whole = [*MANY["prompt"], *MANY["completion"]]
        alone = {**MANY, "prompt": whole[:place], "completion": [whole[place]]}
        assert learned_of(processor, alone, packed) == text


@pytest.mark.parametrize("mark", [{"loss": False}, {"weight": 0}, {"weight": 0.0}])
@pytest.mark.parametrize("packed", [False, True])
def test_a_marked_turn_is_read_and_not_learned(processor, mark, packed):
    with_template(processor, "vicuna_v1")
    marked = [{**turn, **mark} if turn["content"] == "two words" else turn for turn in MANY["completion"]]
    learned = learned_of(processor, {**MANY, "completion": marked}, packed)
    assert "two words" not in learned and "one" in learned and "three" in learned
    unmarked = [{**turn, "loss": None, "weight": 1} for turn in MANY["completion"]]
    assert learned_of(processor, {**MANY, "completion": unmarked}) == learned_of(processor, MANY)


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ([say("assistant", "  ")], "record many: field completion: an answer is empty"),
        ([say("assistant", "a"), say("user", "b"), say("assistant", "")], "an answer is empty"),
        ([say("user", "secret")], "there is no answer to learn"),
        ([say("assistant", "a", loss=False)], "there is no answer to learn"),
        ([], "there is no answer to learn"),
        ([say("assistant", "a", weight=0.5)], "weight 0.5 of a turn cannot be used; give 0"),
        ([say("wizard", "a"), say("assistant", "b")], "record many: .*wizard"),
    ],
)
def test_a_completion_without_a_whole_answer_is_refused(processor, completion, said):
    with_template(processor, "mistral_instruct")
    with pytest.raises(BadInput, match=said):
        collate(processor, [{**MANY, "completion": completion}])


def test_an_empty_answer_that_is_not_learned_is_no_fault(processor):
    with_template(processor, "vicuna_v1")
    completion = [say("assistant", "", weight=0), say("user", "go on"), say("assistant", "done")]
    assert learned_of(processor, {**MANY, "completion": completion}).startswith("done")


def test_a_picture_stands_where_its_token_stands_and_else_before_the_first_question(processor, rows):
    """The system's words stay; a picture's token in an answer is a word; a wrong number of tokens is refused."""
    from llava_mistral.data.turns import chat_of

    picture, token, image = rows[0]["images"], "<image>", {"type": "image"}
    row = {"id": "x", "images": picture, "completion": [say("assistant", f"see {token}")]}

    def first_user(*prompt):
        turns = chat_of({**row, "prompt": list(prompt)}, answered=True)
        assert turns[len(prompt) :] == row["completion"]
        return [part.get("text", part["type"]) for part in turns[len(prompt) - 1]["content"]]

    assert first_user(say("system", "Be brief."), say("user", "what?")) == ["image", "what?"]
    spoken_of = say("system", f"{token} is a word here.")
    assert first_user(spoken_of, say("user", "what?")) == ["image", "what?"]
    assert first_user(say("user", f"{token}\nwhat?")) == ["image", "what?"]
    assert first_user(say("user", f"what is {token} here?")) == ["what is ", "image", " here?"]
    assert first_user({"role": "user", "content": [{"type": "text", "text": "what?"}, image]}) == ["what?", "image"]
    with pytest.raises(BadInput, match="has 1 pictures and 2 places for them"):
        first_user(say("user", f"{token} or {token}?"))
    with pytest.raises(BadInput, match="has 1 pictures and no user's turn"):
        first_user(say("system", "Be brief."))
    blind = {**row, "images": None, "prompt": [say("user", token)]}
    assert chat_of(blind, answered=True)[0]["content"] == token
    with_template(processor, "mistral_instruct")
    completion = [say("assistant", "a cat")]
    prompt = [say("system", "Be brief."), say("user", "what?")]
    batch = collate(processor, [{**row, "prompt": prompt, "completion": completion}])
    assert "Be brief." in processor.tokenizer.decode(batch["input_ids"][0])


def collators(processor):
    """The padded and the packed collator."""
    from llava_mistral.training.collator import AnswerCollator
    from llava_mistral.training.packing import PackedCollator

    padded = AnswerCollator(with_template(processor, "mistral_instruct"))
    return padded, PackedCollator(padded)


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_trained_tokens_are_counted_sample_by_sample(processor, rows, form):
    from llava_mistral.training.trained_tokens import TrainedTokens

    padded, packed = collators(processor)
    collate = {"padded": padded, "packed": packed}[form]
    tokens = TrainedTokens(padded.image_token_id, padded.processor.tokenizer.pad_token_id)
    batches = [*rows[:2], TEXT_ROW, rows[2], LONG_ROW], [LONG_ROW, TEXT_ROW, TEXT_ROW]
    for batch in batches:
        tokens.count(collate(batch))
    singles = [padded([sample]) for batch in batches for sample in batch]
    answers = [int((single["labels"] != -100).sum()) for single in singles]
    lengths = [single["input_ids"].shape[1] for single in singles]
    report = tokens.report()
    assert (report["samples"], report["answer"], report["fewest_answer"]) == (8, sum(answers), min(answers))
    assert (report["prompt"], report["longest"]) == (sum(lengths) - sum(answers), max(lengths))
    assert (report["image_with_loss"], report["padding_with_loss"]) == (0, 0)
    assert (report["padding"] == 0) == (form == "packed")


def test_a_count_of_image_or_padding_tokens_with_loss_would_show(processor, rows):
    from llava_mistral.training.trained_tokens import TrainedTokens

    padded, packed = collators(processor)
    batch = packed([rows[0], TEXT_ROW])
    pad, image = padded.processor.tokenizer.pad_token_id, padded.image_token_id
    batch["labels"] = batch["input_ids"].clone()
    batch["input_ids"][0, -2:] = pad
    tokens = TrainedTokens(image, pad)
    tokens.count(batch)
    assert (tokens.report()["image_with_loss"], tokens.report()["padding_with_loss"]) == (IMAGE_TOKENS, 2)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<pad>", "field completion: a padding token would carry loss; use a template"),
        ("<image>", "field chat_template: the chat template writes 1 image tokens for 0 pictures; use a template"),
    ],
)
def test_a_template_that_would_put_loss_on_such_tokens_is_refused_by_sample(processor, monkeypatch, written, said):
    _, packed = collators(processor)
    hostile = processor.chat_template.replace("' ' + eos_token", f"'{written}' + eos_token")
    assert hostile != processor.chat_template
    monkeypatch.setattr(processor, "chat_template", hostile)
    with pytest.raises(BadInput, match=f"record {TEXT_ROW['id']}: {said}"):
        packed([TEXT_ROW])


def test_an_image_token_in_an_answer_is_refused_by_sample(processor, rows, monkeypatch):
    """However it came there: the words of this answer go round the template, which would make them text."""
    collator, packed = collators(processor)
    spoken = {False: "<s>[INST] <image> ? [/INST]", True: "<s>[INST] <image> ? [/INST] It is <image>"}
    monkeypatch.setattr(collator, "word", lambda sample, answered: spoken[answered])
    sample = {"id": "spoken", "images": [*rows[0]["images"], *rows[1]["images"]]}
    with pytest.raises(BadInput, match="record spoken: .* prompt differently"):
        packed([sample | {"prompt": [say("user", "?")], "completion": [say("assistant", "It is")]}])
