"""What must never leave: secrets and local paths, looked for in every file that is about to be published.

Text is read line by line, JSON value by value, zip archives member by member, pickles string by string (never
executed), safetensors by their header. The bytes of tensors are not searched: they are numbers.
"""

import json
import os
import pickletools
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_header

# The shapes of tokens as their issuers document them; the lengths keep ordinary words (`sk-learn`, `hf_model`) out.
SECRETS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20}",
    "an OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{40,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{20,}",
    "a Weights & Biases key": r"(?i:wandb_api_key)\W{1,5}[0-9a-f]{40}\b",
    "a password in an address": r"\b[a-z][a-z0-9+]*://[^/\s:@'\"]+:[^/\s:@'\"{}<>$]{3,}@[\w.-]+",
}
# A path under a root that only exists on somebody's machine. The character before it rules out addresses.
LOCAL_PATH = (
    r"(?<![\w./:~-])(?:file://)?/(?:home|Users|root|tmp|mnt|scratch|workspace|private/var|var/folders)/[\w.~-][^\s\"'<>|]*"
    r"|file:///[^\s\"'<>|]+"
    r"|\b[A-Za-z]:\\+(?:Users|Documents and Settings)\\+[^\s\"'<>|]+"
)
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in {**SECRETS, "a local path": LOCAL_PATH}.items()}

MAX_MEMBER_BYTES = 256 * 2**20  # a zip member that unpacks to more is refused unread: an archive bomb
MAX_DEPTH = 3  # archives inside archives


@dataclass(frozen=True)
class Finding:
    """One thing that must not leave: the file, the place in it, and what it is (a secret is never quoted whole)."""

    file: str
    place: str
    kind: str
    excerpt: str


def scan_folder(folder: Path, source: Path) -> list[Finding]:
    """Scan every file under `folder` (links followed), in name order.

    Args:
        source: the user's own folder the files were staged from: its path is one of those that must not leave.
    """
    known = _this_machine(source)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [finding for path in files for finding in scan_file(path, str(path.relative_to(folder)), known)]


def refuse_findings(findings: list[Finding], folder: str | Path) -> None:
    """Raise BadInput naming the first finding's file and place, and how many there are in all."""
    if not findings:
        return
    first, more = findings[0], len(findings) - 1
    others = (
        f" (and {more} more: {', '.join(sorted({f'{f.file} {f.place}' for f in findings[1:]})[:4])})" if more else ""
    )
    raise BadInput(
        f"{first.file} holds {first.kind} ({first.excerpt}) at {first.place}{others}",
        remedy="take it out (and revoke a secret) before publishing",
        file=folder,
    )


def scan_file(path: Path, name: str, known: tuple[re.Pattern, ...] = ()) -> Iterator[Finding]:
    """Scan one file by what it holds, whatever its name says.

    Args:
        name: the file's name in the findings.
        known: further patterns of local paths: this machine's home, temporary and working folders.
    """
    if path.suffix == ".safetensors":
        yield from _scan_value(read_header(path), name, "header", known)
    elif path.suffix == ".parquet":
        yield from _scan_parquet(path, name, known)
    else:
        yield from scan_bytes(path.read_bytes(), name, known=known)


def scan_bytes(data: bytes, name: str, place: str = "", depth: int = 0, known: tuple = ()) -> Iterator[Finding]:
    """Scan a file's content: a zip by its members, a pickle by its strings, JSON by its values, the rest by lines."""
    if data[:2] == b"PK" and zipfile.is_zipfile(BytesIO(data)):
        yield from _scan_zip(data, name, place, depth, known)
    elif data[:1] == b"\x80" and data[-1:] == b".":
        strings = _pickle_strings(data)
        yield from _scan_value(strings, name, f"{place}pickle", known)
    else:
        # JSON is searched twice: by value because escapes hide text, by line because a repeated key hides a value.
        found = False
        for finding in _scan_value(_as_json(data), name, place, known):
            found = True
            yield finding
        if not found:
            yield from _scan_lines(data, name, place, known)


def is_local_path(text: str) -> bool:
    """Whether a value names a place on somebody's machine: absolute, home-relative, dotted, or present right here."""
    if not text or "\n" in text or len(text) > 1000:
        return False
    # The verbs write to outputs/: of a folder that has gone since, the name alone would look like a Hub id.
    if re.match(r"/\S|~[\w.-]*/|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\|file:|outputs/", text):
        return True
    if "://" in text or not ("/" in text or "\\" in text):
        return False
    return os.path.exists(text) or (text.count("/") > 1 and not re.search(r"\s", text))


def plain_name(text: str) -> str:
    """A value fit for strangers: a local path becomes its last part, everything else (Hub ids too) stays."""
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if is_local_path(text) else text


def _this_machine(source: Path) -> tuple[re.Pattern, ...]:
    """Patterns of this machine's own folders, which need not lie under the usual roots, and of its token."""
    from huggingface_hub import get_token

    home = Path.home().resolve()
    folders = {Path(place).resolve() for place in (Path.cwd(), tempfile.gettempdir(), source)}
    # A folder right under the root (/data, /app) is too common a word to look for.
    folders = {str(folder) for folder in folders if len(folder.parts) > 2} | ({str(home)} - {"/"})
    texts = [rf"(?<![\w.:-]){re.escape(folder)}(?=[/\\\"'\s]|$)" for folder in sorted(folders)]
    token = get_token()
    return tuple(re.compile(text) for text in texts + ([re.escape(token)] if token and len(token) >= 8 else []))


def _scan_lines(data: bytes, name: str, place: str, known: tuple) -> Iterator[Finding]:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    for number, line in enumerate(data.decode(encoding, errors="replace").splitlines(), 1):
        yield from _scan_text(line, name, f"{place}line {number}", known)


def _scan_text(text: str, name: str, place: str, known: tuple) -> Iterator[Finding]:
    # A SentencePiece model carries the path its trainer read from: Mistral's own holds one, and every copy of it does.
    others_paths = name.endswith(".model")
    for kind, pattern in _PATTERNS.items():
        if (match := pattern.search(text)) and not (others_paths and kind == "a local path"):
            shown = match[0][:60] if kind == "a local path" else f"{match[0][:6]}…"
            yield Finding(name, place or "its text", kind, shown)
            return
    for pattern in known:
        if match := pattern.search(text):
            is_path = match[0].startswith("/")
            yield Finding(name, place or "its text", "a local path" if is_path else "your token", match[0][:6] + "…")
            return


def _scan_value(value, name: str, place: str, known: tuple) -> Iterator[Finding]:
    """Walk a JSON-like value; the place of a finding is its key path."""
    if isinstance(value, str):
        yield from _scan_text(value, name, place, known)
    elif isinstance(value, bytes) and not value.startswith(b"\x89PNG"):
        yield from scan_bytes(value, name, f"{place} ", known=known)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _scan_text(str(key), name, f"{place} a key".strip(), known)
            yield from _scan_value(item, name, f"{place}.{key}".lstrip(".") if len(str(key)) < 80 else place, known)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _scan_value(item, name, f"{place}[{index}]", known)


def _scan_zip(data: bytes, name: str, place: str, depth: int, known: tuple) -> Iterator[Finding]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for member in archive.infolist():
            where = f"{place}member {member.filename} "
            if depth >= MAX_DEPTH or member.file_size > MAX_MEMBER_BYTES or member.flag_bits & 1:
                yield Finding(
                    name, where.strip(), "an archive that cannot be searched", "too deep, too big or encrypted"
                )
            else:
                yield from _scan_text(member.filename, name, where.strip(), known)
                yield from scan_bytes(archive.read(member), name, where, depth + 1, known)


def _pickle_strings(data: bytes) -> list[str]:
    strings = []
    try:
        for _, argument, _ in pickletools.genops(data):
            if isinstance(argument, bytes):
                strings.append(argument.decode("utf-8", errors="replace"))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # not a pickle after all, or a cut one: search what it holds as text
        strings.append(data.decode("utf-8", errors="replace"))
    return strings


def _as_json(data: bytes):
    if data.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # broken, not UTF-8 or nested without end: searched as text only
        return None


def _scan_parquet(path: Path, name: str, known: tuple) -> Iterator[Finding]:
    """Scan a parquet file's metadata and every string in its rows (its pictures are re-encoded when staged)."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = {k.decode(): v.decode("utf-8", "replace") for k, v in (file.schema_arrow.metadata or {}).items()}
        yield from _scan_value(metadata, name, "metadata", known)
        row = 0
        for batch in file.iter_batches(batch_size=100):
            for record in batch.to_pylist():
                yield from _scan_value(record, name, f"row {row}", known)
                row += 1
