"""Choose a decoder's chat template: its own, extended for pictures, or one of LLaVA's."""

import json
from pathlib import Path

from jinja2 import TemplateError

from llava_mistral.data.turns import IMAGE_TOKEN
from llava_mistral.ground.bad_input import BadInput
from processing import CHAT_TEMPLATES
from processing.processing_llava_mistral import WORD_JOINER

LLAVA = ("mistral_instruct", "vicuna_v1")
OWN = "own"
CHOICES = (OWN, *LLAVA)

# Before the decoder's own template, to the letter: every message's content becomes one text, in which pictures are
# image tokens. The end of the last line is eaten (`trim_blocks`), so that the own template begins as it did.
_PICTURES = """\
{#- The decoder's own template follows, unchanged. Before it each picture becomes an image token where the words place
    it, and a control token in somebody's words is parted by a word joiner, U+2060, and stays text. -#}
{%- set joiner = 'JOINER' -%}
{%- set protected = protected_tokens -%}
{%- if protected_tokens is not defined or protected_tokens is none -%}
  {%- set protected = PROTECTED -%}
{%- endif -%}
{%- set worded = namespace(messages=[], text='', words='', spoken=false) -%}
{%- macro literal(text) -%}
  {%- set parted = namespace(text=text) -%}
  {%- for token in protected -%}
    {%- if token is string and token | length > 1 -%}
      {%- set parted.text = parted.text | replace(token, token[:1] + joiner + token[1:]) -%}
    {%- endif -%}
  {%- endfor -%}
  {{- parted.text -}}
{%- endmacro -%}
{%- for message in messages -%}
  {%- set worded.text = '' -%}
  {%- set worded.words = '' -%}
  {%- set worded.spoken = false -%}
  {%- if message['content'] is string -%}
    {%- set worded.words = message['content'] -%}
  {%- elif message['content'] is not defined or message['content'] is none -%}
    {{- raise_exception('a message without content; give a text or a list of parts') -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'text' -%}
        {%- set worded.words = worded.words + part['text'] -%}
      {%- elif part['type'] in ('image', 'image_url') and message['role'] == 'user' -%}
        {%- set worded.spoken = worded.spoken or worded.words | trim | length > 0 -%}
        {%- set worded.text = worded.text + literal(worded.words) + ('<image>' if worded.spoken else '<image>\\n') -%}
        {%- set worded.words = '' -%}
      {%- else -%}
        {{- raise_exception('a part of type ' + part['type'] + ' cannot come from ' + message['role']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set worded.text = worded.text + literal(worded.words) -%}
  {%- set worded.messages = worded.messages + [dict(message, content=worded.text)] -%}
{%- endfor -%}
{%- set messages = worded.messages %}
"""
# Mistral's own words from its tokenizers' second version on, in which the marks are tokens, as mistral-common has
# them: the system's words have marks of their own (v7), or begin the last question. SPACE is sentencepiece's: Tekken
# writes none.
_MISTRAL = """\
{{- bos_token -}}
{%- set told = namespace(system='', turns=0, last=0) -%}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}{%- set told.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' and loop.first -%}
    {%- if OWN_MARKS -%}{{- '[SYSTEM_PROMPT]SPACE' + message['content'] + '[/SYSTEM_PROMPT]' -}}
    {%- else -%}{%- set told.system = message['content'] + '\n\n' -%}{%- endif -%}
  {%- elif message['role'] == ('user', 'assistant')[told.turns % 2] -%}
    {%- set told.turns = told.turns + 1 -%}
    {%- if message['role'] == 'user' -%}
      {{- '[INST]SPACE' + (told.system if loop.index0 == told.last else '') + message['content'] + '[/INST]' -}}
    {%- else -%}{{- 'SPACE' + message['content'].rstrip(' ') + eos_token -}}{%- endif -%}
  {%- else -%}
    {{- raise_exception('turns must alternate user and assistant, after one of the system at most') -}}
  {%- endif -%}
{%- endfor -%}
"""
_ASKED, _SAID = "zebra crossing", "giraffe meadow"  # words no template brings along
_SYSTEM = {"role": "system", "content": "walrus island"}


def choose_wording(tokenizer, asked: str | None, llm: str) -> tuple[str, str, list[str]]:
    """Return what a chat is worded by: its name, the template, and lines that say what a reader should know.

    Args:
        tokenizer: the decoder's, as it was published.
        asked: `"own"`, `"mistral_instruct"`, `"vicuna_v1"`, a Jinja file, or None: the decoder's own template where it
            has one that is not LLaVA-1.6's or Vicuna's wording, else that wording.
        llm: the decoder's name, for messages.

    Raises:
        BadInput: there is no such template, or it cannot word a picture, a question or an answer.
    """
    own = _own_template(tokenizer)
    if asked in LLAVA:
        return asked, _shipped(asked), []
    if asked is None and own is None:
        remedy = "for other words give --chat_template vicuna_v1, or a Jinja file"
        return LLAVA[0], _shipped(LLAVA[0]), [f"{llm} has no chat template; chats are worded as {LLAVA[0]}; {remedy}"]
    if asked is None and (same := _llava_wording(tokenizer, own)):
        return same, _shipped(same), []
    if asked in (None, OWN):
        if own is None:
            problem = "the decoder has no chat template of its own"
            remedy = f"give --chat_template {', '.join(LLAVA)}, or a Jinja file"
            raise BadInput(problem, remedy=remedy, file=llm, field="chat_template")
        return OWN, *_checked(tokenizer, with_pictures(own, tokenizer), llm)
    text = _read(asked)
    if not _fault(tokenizer, text):  # it words pictures itself
        return asked, *_checked(tokenizer, text, asked)
    return asked, *_checked(tokenizer, with_pictures(text, tokenizer), asked)


def with_pictures(template: str, tokenizer) -> str:
    """Return a text model's template that also takes pictures: what it says to a chat of texts stays what it was.

    Protected are the tokens that mark its turns: those special tokens that the template writes, and those with a role.
    """
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    named = [getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad", "unk")]
    written = sorted(token for token in special if token in template)
    protected = list(dict.fromkeys([IMAGE_TOKEN, *filter(None, named), *written]))
    tokens = json.dumps(protected, ensure_ascii=False)
    return _PICTURES.replace("JOINER", WORD_JOINER).replace("PROTECTED", tokens) + template


def _own_template(tokenizer) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or _mistrals_template(tokenizer)


def _mistrals_template(tokenizer) -> str | None:
    """The words of a tokenizer of Mistral's that was published without a template, and has `[INST]` for a token."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not {"[INST]", "[/INST]"} <= special:
        return None
    file = Path(str(tokenizer.init_kwargs.get("vocab_file") or ""))
    marks, space = "[SYSTEM_PROMPT]" in special, " "
    if file.name == "tekken.json":  # has those marks in every version, and no use for them before the seventh
        version = json.loads(file.read_text(encoding="utf-8"))["config"]["version"]
        marks, space = int(version.strip("v").split("m")[0]) >= 7, ""
    return _MISTRAL.replace("OWN_MARKS", str(marks).lower()).replace("SPACE", space)


def _shipped(name: str) -> str:
    return (CHAT_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        remedy = f"give {', '.join(CHOICES)} or a Jinja file"
        raise BadInput("is no chat template", remedy=remedy, file=file, field="chat_template") from error


def _llava_wording(tokenizer, own: str) -> str | None:
    """Which of LLaVA's templates words a question as the decoder's own does, the space around it aside."""
    try:
        asked = _render(tokenizer, own, [{"role": "user", "content": _ASKED}])
    except Exception:  # it is looked into where it is used
        return None
    asked = asked.removeprefix(tokenizer.bos_token or "").strip()
    llava = {LLAVA[0]: f"[INST] {_ASKED} [/INST]", LLAVA[1]: f"USER: {_ASKED} ASSISTANT:"}
    same = [name for name, wording in llava.items() if asked == wording or (name != LLAVA[0] and wording in asked)]
    return same[0] if same else None


def _checked(tokenizer, template: str, file: str) -> tuple[str, list[str]]:
    """Return the template and what its reader should know.

    Raises:
        BadInput: it cannot word a picture, a question or an answer.
    """
    if fault := _fault(tokenizer, template):
        remedy = f"give --chat_template {' or '.join(LLAVA)}, or a Jinja file that does"
        raise BadInput(fault, remedy=remedy, file=file, field="chat_template")
    said = []
    try:
        system = _SYSTEM["content"] in _render(tokenizer, template, [_SYSTEM, *_chat()])
        said += [] if system else [f"{file}: the chat template drops system turns"]
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        said.append(f"{file}: the chat template takes no system turn ({reason}); chats with one will be refused")
    return template, said


def _chat() -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _ASKED}]}]


def _fault(tokenizer, template: str) -> str | None:
    """Return why the template cannot word chats with pictures, or None."""
    answered = [*_chat(), {"role": "assistant", "content": _SAID}]
    try:
        prompt = _render(tokenizer, template, _chat())
        whole = _render(tokenizer, template, answered, asks=False)
        text = _render(tokenizer, template, [{"role": "user", "content": _ASKED}])
        further = _render(tokenizer, template, [*answered, {"role": "user", "content": "narwhal"}])
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:160]
        return f"the chat template refuses a chat of a picture, a question and an answer ({reason})"
    if prompt.count(IMAGE_TOKEN) != 1 or further.count(IMAGE_TOKEN) != 1 or IMAGE_TOKEN in text:
        return "the chat template does not write each picture once"
    if not all(_ASKED in worded for worded in (prompt, text, further)) or "narwhal" not in further:
        return "the chat template drops the question"
    if _SAID not in whole:
        return "the chat template drops the answer"
    return None


def _render(tokenizer, template: str, chat: list[dict], asks: bool = True) -> str:
    return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=asks)
