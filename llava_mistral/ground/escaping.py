"""Escape untrusted text for where it is shown: one function for each place.

HTML is `html.escape`, a shell's word `shlex.quote`, YAML PyYAML's own writer; the rest is here, with what the pages of
this project may load.
"""

import re

# For pages that are files: their own styles and pictures; no script, no form, nothing from a network.
_FILE_POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; form-action 'none'"
POLICY_TAG = f'<meta http-equiv="Content-Security-Policy" content="{_FILE_POLICY}; base-uri \'none\'">'
# For a page that Gradio serves, whose scripts are inline: nothing from another server, and no form that is sent.
SERVED_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; form-action 'none'"

# For a report of ours within such a page: as a file, and apart from the page.
FRAMED_POLICY = f"{_FILE_POLICY}; sandbox"


def terminal(text: str) -> str:
    """Text for a terminal: what would move its cursor, set its clipboard or turn its line around is written out."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)


def one_line(text: object) -> str:
    """Text in one line, its control characters written out."""
    return terminal(" ".join(str(text).split()))


def markdown(text: object) -> str:
    """Words within a line, a cell or a heading of Markdown: no HTML, link, picture, emphasis or further cell."""
    text = re.sub(r"([\\`*\[\]<>|])", r"\\\1", one_line(text).replace("&", "&amp;"))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = re.sub(r"~(?=~)", r"\\~", text)
    text = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):", r"\1&#58;", text)  # renderers link bare addresses
    return re.sub(r"(?i)\bwww\.", "www&#46;", text).replace("@", "&#64;")


def code(text: object) -> str:
    """A span of code within a line or a cell of Markdown."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '¦')}`"


def fence(text: str, language: str = "") -> str:
    """A block of code in Markdown, its fence longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{terminal(text)}\n{ticks}"
