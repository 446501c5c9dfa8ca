"""Shared by both cards: facts filled into a template, in one format, validated by the Hub client's own classes.

Every number on a card comes from run.json, summary.json, manifest.json, config.json or the headers of the weights;
what no file says reads as unknown.
"""

import re
from html import escape
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.escaping import POLICY_TAG, code, fence, markdown, one_line
from llava_mistral.ground.output_folders import GENERATOR
from llava_mistral.publishing.scanning import is_local_path, scan_bytes

UNKNOWN = "unknown"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def pour(template: str, **values) -> str:
    """Fill a template; a missing value is an error, never a blank."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals.update(markdown=markdown, code=code, fence=fence)
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(**values))


def card_data(kind: str, **fields):
    """The front matter as the Hub's client holds it; `kind` is its class, such as "ModelCardData"."""
    import huggingface_hub

    try:
        return getattr(huggingface_hub, kind)(
            **{key: _lines(value) for key, value in fields.items() if value is not None}
        )
    except ValueError as error:
        raise BadInput(f"the card's fields do not validate ({error})", remedy="correct the field") from None


def _lines(value):
    """Every text of a front matter's field in one line: a `---` on a line of its own would end it."""
    if isinstance(value, list):
        return [_lines(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def validated(kind: str, text: str) -> str:
    """Parse the finished card again as the Hub will, and refuse one that says where it was made."""
    import huggingface_hub
    from yaml import YAMLError

    try:
        getattr(huggingface_hub, kind)(text)
    except (ValueError, TypeError, YAMLError) as error:
        raise BadInput(f"the card does not validate ({error})", remedy="correct the field it names") from None
    if found := next(scan_bytes(text.encode(), "README.md"), None):
        raise BadInput(
            f"the card would hold {found.kind} ({found.excerpt}) at {found.place}",
            remedy="take it out of run.json, summary.json, manifest.json or the recipe",
        )
    return text


def is_hub_id(name) -> bool:
    return isinstance(name, str) and bool(HUB_ID.fullmatch(name)) and not is_local_path(name)


def formatted(value) -> str:
    """Format a value for a card: thousands separated, lists joined, None as "unknown"."""
    if value is None or value == "" or value == [] or value == {}:
        return UNKNOWN
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(formatted(item) for item in value)


def as_yaml(value) -> str | None:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip() if value else None


# What is wider than a phone scrolls by itself, also by the keyboard.
SCROLLED_TEXT = '<pre tabindex="0">'
SCROLLED_TABLE = '<div class="scroll" tabindex="0" role="region" aria-label="table">'


def card_html(card: str, title: str) -> str:
    """A card as a page to look at: the front matter as a block, the rest rendered; pictures by relative path."""
    from markdown_it import MarkdownIt

    front, body = re.match(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    style = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    style += ":root{color-scheme:light dark}body{background:Canvas;color:CanvasText;"
    style += "overflow-wrap:anywhere}.scroll{overflow-x:auto}"
    style += "table{border-collapse:collapse}td,th{overflow-wrap:normal;border:1px solid #ccc;"
    style += "padding:.2rem .5rem;font-size:.92em}"
    style += "pre{background:light-dark(#f4f4f4,#2a2a2a);padding:.7rem;overflow-x:auto}"
    shown = MarkdownIt("commonmark", {"html": False}).enable("table").render(body).replace("<pre>", SCROLLED_TEXT)
    shown = shown.replace("<table>", f"{SCROLLED_TABLE}<table>").replace("</table>", "</table></div>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>{POLICY_TAG}{GENERATOR}<title>{escape(title)}</title>"
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style>'
        f"<details><summary>front matter</summary>{SCROLLED_TEXT}{escape(front)}</pre></details>{shown}"
    )
