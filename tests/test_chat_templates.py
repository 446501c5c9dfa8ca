"""A conversation is worded as the original code words it, token for token."""

import json
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).parents[1] / "processing" / "chat_templates"
NAMES = {"mistral_instruct": "mistral_instruct", "v1": "vicuna_v1", "plain": "plain"}  # theirs: ours
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
JOINER = "\u2060"
CASES = 9  # in chat_prompts.json
CASES_WITH_IDS = (0, 1, 2, 3, 8)  # mistral_instruct and plain


@pytest.fixture(scope="module")
def tokenizer():
    from tests.support.tiny_components import tiny_tokenizer

    return tiny_tokenizer()


def render(tokenizer, template: str, turns: list[dict], **options) -> str:
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False, **options)


def messages(turns: list[str]) -> list[dict]:
    """The original's alternating turns; `<image>` at the start of one becomes a part of its own."""
    said = []
    for index, text in enumerate(turns):
        parts = [{"type": "image"}] if text.startswith("<image>") else []
        text = text.removeprefix("<image>").removeprefix("\n")
        role = ("user", "assistant")[index % 2]
        said.append({"role": role, "content": [*parts, *([{"type": "text", "text": text}] if text else [])]})
    return said


def ask(*texts: str) -> list[dict]:
    """Turns of plain text, the user first."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


@pytest.fixture(scope="module")
def mistral_tokenizer(shared):
    """Mistral's own tokenizer, from its sentencepiece model, with the image token that `llava-mistral build` adds."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from tokenizers import AddedToken, Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    pieces = sentencepiece.SentencePieceProcessor(str(shared / "mistral_tokenizer" / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    merges = generate_merges(vocabulary, {piece: pieces.get_score(index) for piece, index in vocabulary.items()})
    model = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # Its legacy behaviour: every piece between two special tokens begins with a space of its own.
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def original_cases(shared) -> list[dict]:
    cases = json.loads((shared / "original_llava" / "chat_prompts.json").read_text(encoding="utf-8"))
    assert len(cases) == CASES
    return cases


def worded(tokenizer, case: dict) -> str:
    turns = messages(case["turns"])
    return render(tokenizer, NAMES[case["template"]], turns, add_generation_prompt=turns[-1]["role"] == "user")


@pytest.mark.parametrize("index", range(CASES))
def test_a_prompt_is_the_originals(tokenizer, shared, index):
    case = original_cases(shared)[index]
    assert worded(tokenizer, case) == "<s>" + case["prompt"]


@pytest.mark.parametrize("index", CASES_WITH_IDS)
def test_token_ids_are_the_originals_with_the_real_tokenizer(mistral_tokenizer, shared, index):
    case = original_cases(shared)[index]
    image = mistral_tokenizer.convert_tokens_to_ids("<image>")
    ids = mistral_tokenizer(worded(mistral_tokenizer, case), add_special_tokens=False).input_ids
    assert [-200 if token == image else token for token in ids] == case["input_ids"]


def test_mistral_puts_the_system_message_into_the_first_question(tokenizer):
    """As LLaMA-2 does, and LLaVA's `mistral_instruct` with it; Mistral has no marks for it."""
    turns = [{"role": "system", "content": "Be brief."}, *ask("Hello?", "Yes.", "Sure?")]
    assert render(tokenizer, "mistral_instruct", turns) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello? [/INST] Yes. </s>[INST] Sure? [/INST]"
    )


def test_vicuna_takes_a_system_message_for_its_own(tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, *ask("Hello?")]
    assert render(tokenizer, "vicuna_v1", turns, add_generation_prompt=True) == (
        "<s>Be brief. USER: Hello? ASSISTANT:"
    )


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([*ask("Hello?"), {"role": "system", "content": "Be brief."}], "the system message must come first"),
        ([{"role": "robot", "content": "Beep."}], "unknown role robot"),
    ],
)
def test_a_conversation_that_cannot_be_worded_is_refused(tokenizer, template, turns, said):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match=said):
        render(tokenizer, template, turns)


@pytest.mark.parametrize("template", sorted(NAMES.values()))
@pytest.mark.parametrize("turns", [["<image>\nWhat?", "A lake."], ["<image>\nWhat?", "A lake.", "Sure?", "Yes."]])
def test_the_prompt_is_a_prefix_of_the_conversation(tokenizer, template, turns):
    """What training masks and what generation starts from are then the same characters."""
    prompt = render(tokenizer, template, messages(turns[:-1]), add_generation_prompt=True)
    whole = render(tokenizer, template, messages(turns))
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip().startswith(turns[-1])


@pytest.mark.parametrize("template", sorted(NAMES.values()))
def test_plain_text_and_a_list_of_parts_are_worded_alike(tokenizer, template):
    turns = ask("2 + 2?", "4")
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    assert render(tokenizer, template, parts) == render(tokenizer, template, turns)


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
def test_a_picture_keeps_its_place_and_a_leading_one_its_line(tokenizer, template):
    before, after, image = {"type": "text", "text": "Is "}, {"type": "text", "text": " red?"}, {"type": "image"}
    for parts, said in (
        ([image, image, after], "<image>\n<image>\n red?"),
        ([before, image, after], "Is <image> red?"),
        ([image, before, image, after], "<image>\nIs <image> red?"),
    ):
        worded = render(tokenizer, template, [{"role": "user", "content": parts}])
        assert worded.removesuffix(" [/INST]").rstrip().endswith(f" {said}")


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
@pytest.mark.parametrize(
    ("change", "said"),
    [({"tools": [{"type": "function"}]}, "tools"), ({"documents": [{"title": "a", "text": "b"}]}, "documents")],
)
def test_what_the_model_cannot_use_is_refused_by_name(tokenizer, template, change, said):
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match=f"{said} are not supported"):
        render(tokenizer, template, ask("Hello?"), **change)


@pytest.mark.parametrize("template", sorted(NAMES.values()))
def test_control_tokens_in_words_are_parted_by_the_template_itself(tokenizer, template):
    """Engines read the template alone; `protected_tokens` says which tokens."""
    words = "a <image> </s><s> <pad> <unk> [INST]"
    turns = [{"role": "user", "content": words}, {"role": "assistant", "content": words}]
    worded = render(tokenizer, template, turns)
    assert "<image>" not in worded and worded.count("</s>") == worded[-4:].count("</s>")
    assert worded.replace(JOINER, "").count(words) == (1 if template == "plain" else 2)
    kept = render(tokenizer, template, turns, protected_tokens=["</s>"])
    assert "a <image>" in kept and f"<{JOINER}/s>" in kept
    assert words in render(tokenizer, template, turns, protected_tokens=[])


@pytest.mark.parametrize("template", ["mistral_instruct", "vicuna_v1"])
def test_a_final_message_is_continued(tokenizer, template):
    turns = ask("Which?", "The answer")
    prompt = render(tokenizer, template, turns[:1], add_generation_prompt=True)
    assert render(tokenizer, template, turns, continue_final_message=True) == prompt + " The answer"


def test_the_vicuna_default_system_message_is_llavas(tokenizer):
    assert render(tokenizer, "vicuna_v1", ask("Hi"), add_generation_prompt=True).startswith(f"<s>{VICUNA} USER: Hi ")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch RAN').read() }}",
    "{{ lipsum.__globals__['os'].popen('touch RAN').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}{{ strftime_now.__globals__ }}",
    "{{ messages|attr('__class__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ self._TemplateReference__context }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.popen('touch RAN') }}",
    "{{ (messages|map(attribute='__class__')|list)[0].__mro__ }}",
]


@pytest.mark.case("S25", "refused")
@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_nothing_of_python(tokenizer, tmp_path, template):
    template = template.replace("RAN", str(tmp_path / "ran"))
    try:
        said = tokenizer.apply_chat_template(ask("x"), chat_template=template, tokenize=False)
    except Exception as error:
        said = str(error)
    assert not (tmp_path / "ran").exists()
    assert not [word for word in ("<class", "<function", "<module", "__builtins__", "root:") if word in said], said
