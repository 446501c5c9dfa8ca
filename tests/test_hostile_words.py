"""Words of strangers in every place that we pour them into: they stay words, in their cell, and nothing happens."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from tqdm import tqdm

from llava_mistral.evaluation.comparison import compare, read_run
from llava_mistral.evaluation.report import comparison_page
from llava_mistral.ground import escaping
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.cards import card_html
from llava_mistral.publishing.dataset_card import dataset_card
from llava_mistral.publishing.model_card import model_card
from llava_mistral.publishing.staging import stage_model
from tests.support.browser import dom, elements
from tests.support.hostile_words import HOSTILE
from tests.support.result_folders import results
from tests.support.running import run_here
from tests.support.tiny_publications import RUN, SUMMARY, save_checkpoint

shows = pytest.mark.case
MANIFEST = {
    "method": "random", "size": 3, "seed": 0, "source": "somewhere", "input": {"name": "n", "rows": 9, "sha256": "ab"},
    "counts": {"kept": 3, "too much": 6}, "recipe": {"dataset": "d", "split": "train", "pool": "all"},
    "versions": {"numpy": "1"}, "kept": ["a"], "dropped": {},
}  # fmt: skip
INFO = {
    "config_name": "random",
    "features": [{"name": "id", "dtype": "string"}, {"name": "prompt", "list": {"dtype": "string"}}],
    "splits": [{"name": "train", "num_bytes": 1, "num_examples": 3}],
}


def poisoned(value, text: str, kept: tuple = ()):
    """`value` with `text` in place of every word of it, and of every key of counts, recipes and versions."""
    if isinstance(value, dict):
        renamed = {"counts", "recipe", "versions"} & value.keys()
        new = {key: poisoned(item, text, kept) for key, item in value.items() if key not in kept}
        new |= {key: {f"{name} {text}": item for name, item in new[key].items()} for key in renamed if new.get(key)}
        return new | {key: value[key] for key in kept if key in value}
    if isinstance(value, list):
        return [poisoned(item, text, kept) for item in value]
    return text if isinstance(value, str) else value


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "staged").mkdir()
    stage_model(save_checkpoint(folder / "made"), folder / "staged")
    return folder / "staged"


def model(staged: Path, folder: Path, text: str | None, kept: tuple = ()) -> str:
    """The model card with `text` in every word of its run, but in `kept`, and of its summary."""
    shutil.copytree(staged, folder)
    before = {**RUN, "stage": "pretrain"}
    run, summary = {**RUN, "before": before, "license": "cc-by-4.0"}, dict(SUMMARY)
    if text is not None:
        run, summary = poisoned(run, text, kept), poisoned(summary, text)
    (folder / "run.json").unlink(missing_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    return model_card(folder, "owner/name", revision="files-0123456789ab", summaries=[summary])


def dataset(text: str | None, name: str = "random") -> str:
    """The data card with `text` in every word of its manifest, beside a config of ours."""
    manifest = MANIFEST if text is None else poisoned(MANIFEST, text)
    info = {**INFO, "config_name": name}
    configs = {name: {"manifest": manifest, "revision": "r-1", "info": info}}
    return dataset_card("owner/rows", configs, "cc-by-4.0")


def shape(card: str) -> list[str]:
    """The keys of a card's YAML, its blocks as a Hub renders it, and whatever in its lines is more than words."""
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    found = sorted(yaml.safe_load(front))
    for token in tokens:
        found.append(token.type if token.type != "html_block" else token.content.split(">")[0])
        for child in token.children or ():
            if child.type in ("image", "link_open", "html_inline"):
                found.append(f"{child.type} {child.attrs.get('href') or child.attrs.get('src') or child.content}")
    return found


@pytest.mark.parametrize("text", HOSTILE)
@shows("S32", "refused")
def test_a_model_card_keeps_its_shape_whatever_its_record_says(staged, tmp_path, text):
    expected, card = shape(model(staged, tmp_path / "plain", "words")), model(staged, tmp_path / "hostile", text)
    assert shape(card) == expected
    assert escaping.terminal(card) == card, "no control characters"


@pytest.mark.parametrize("text", HOSTILE)
@shows("S32", "refused")
def test_a_data_card_keeps_its_shape_whatever_its_manifest_says(text):
    card = dataset(text)
    assert shape(card) == shape(dataset("words")) and escaping.terminal(card) == card


@pytest.mark.parametrize("text", HOSTILE)
def test_a_config_that_somebody_else_named_keeps_its_place(text):
    try:
        card = dataset(None, text)
    except BadInput:
        return
    assert not [kind for kind in shape(card) if re.search(r"image|html|link_open (?!owner)", kind)]


@shows("S32", "accepted")
def test_ordinary_words_are_not_disfigured(staged, tmp_path):
    card = model(staged, tmp_path / "plain", None)
    assert "torch 2.13.0" in card and "\\" not in card.replace(" \\\n", "")
    assert "`random`" in dataset(None) and "--pool all" in dataset(None)


@pytest.mark.parametrize("verb", ["prune", "train"])
@pytest.mark.parametrize("text", HOSTILE)
@shows("S32", "refused")
def test_the_command_to_run_again_is_one_command(staged, tmp_path, text, verb):
    card = dataset(text) if verb == "prune" else model(staged, tmp_path / "hostile", text, kept=("stage",))
    commands = re.findall(r"```bash\n(.*?)\n```", card, re.DOTALL)
    assert commands
    for command in commands:
        words = shlex.split(command.replace("\\\n", ""))
        assert words[:2] == ["llava-mistral", verb]
        # What a shell sees: one simple command, no operator outside of a quoted word.
        lexer = shlex.shlex(command.replace("\\\n", ""), posix=True, punctuation_chars=True)
        assert not [word for word in lexer if set(word) <= set("();<>|&")]


@pytest.mark.parametrize("text", HOSTILE)
@shows("S34", "refused")
def test_a_verb_prints_words_and_moves_no_cursor(text):
    said = run_here(lambda: print(text)).stdout
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("error", [ValueError, lambda text: FileNotFoundError(2, "no such file", text)])
@shows("S34", "refused")
def test_errors_and_what_libraries_say_move_no_cursor(text, error):
    def main():
        print(text, file=sys.stderr)
        raise error(text)

    assert run_here(main, code=1).stderr.replace("\n", "").isprintable()
    assert "\x1b" not in run_here(main, "--verbose", code=1).stderr


@shows("S34", "accepted")
def test_bars_of_progress_stay_bars():
    def main():
        for position in (0, 1):
            with tqdm(total=2, position=position, leave=False, ascii=True) as bar:
                bar.update(2)

    said = run_here(main).stderr
    assert said.count("\r") >= 4 and "\x1b[A" in said and "\\" not in said


@shows("S34", "accepted")
def test_a_verb_prints_letters_of_every_script_and_lines_and_tabs():
    assert run_here(lambda: print("Käse\t日本\n— é")).stdout == "Käse\t日本\n— é\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_the_escapes_of_a_line_and_of_code_are_undone_by_a_renderer(text):
    """What a reader sees is the text, whitespace and control characters apart."""
    render = MarkdownIt("commonmark").enable("table")
    inline = render.parseInline(escaping.markdown(text))[0].children
    assert [child.type for child in inline if child.type not in ("text", "text_special")] == []
    assert "".join(child.content for child in inline).split() == escaping.one_line(text).split()
    fenced = render.parse(escaping.fence(text, "yaml"))
    assert [token.type for token in fenced] == ["fence"]


# ---- in a browser

DRAWN = {"script", "form", "iframe", "input", "svg", "button", "base", "video", "audio", "image", "link", "object"}


def pages(staged: Path, folder: Path, text: str) -> dict[str, str]:
    folder.mkdir()
    title = f"{text} title"
    found = compare(
        {name: [read_run(results(folder / name, right))] for name, right in (("mistral", 90), ("llama", 80))}
    )
    found["models"] = {f"{name} {text}": model for name, model in found["models"].items()}
    for pair in found["pairs"]:
        pair["first"], pair["second"] = f"{pair['first']} {text}", f"{pair['second']} {text}"
    return {
        "model": card_html(model(staged, folder / "model", text), title),
        "dataset": card_html(dataset(text), title),
        "comparison": comparison_page(found, None, title=title),
    }


@pytest.mark.slow
@shows("S33", "refused")
def test_a_browser_draws_words_and_calls_nobody(staged, tmp_path, listener):
    url, calls = listener
    for number, text in enumerate(HOSTILE):
        made = pages(staged, tmp_path / str(number), text.replace("URL", url))
        for name, page in made.items():
            (tmp_path / f"{number}-{name}.html").write_text(page)
            seen = dom(tmp_path / f"{number}-{name}.html")
            drawn = elements(seen)
            assert not {one[0] for one in drawn} & DRAWN, name
            assert "Content-Security-Policy" in page, name
            assert not [one for one in drawn if re.search(r"127\.0\.0\.1|^on", " ".join(map(str, one[1:])))], name
            assert "<title>ran<" not in seen
            assert not calls, f"{name}: {calls}"


@pytest.mark.slow
@shows("S33", "accepted")
def test_the_guards_of_this_test_would_notice(tmp_path, listener):
    """The same words poured raw do call, so that silence above is no accident."""
    url, calls = listener
    (tmp_path / "raw.html").write_text(
        "<!doctype html>" + HOSTILE[0].replace("URL", url) + HOSTILE[1].replace("URL", url)
    )
    assert "<title>ran<" in dom(tmp_path / "raw.html") and calls
