"""Scan every file that is about to be published for secrets and local paths.

Text is read line by line, JSON value by value, zip and tar archives member by member, pickles string by string (never
executed), safetensors by their header. The bytes of tensors are not searched: they are numbers.
"""

import base64
import bz2
import gzip
import json
import lzma
import os
import pickletools
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_header
from llava_mistral.publishing.secret_patterns import LOCAL_PATH, SECRET_KEYS, SECRETS, joined, undisguised

_PATTERNS = {kind: re.compile(pattern) for kind, pattern in {**SECRETS, "a local path": LOCAL_PATH}.items()}
_UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}

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
    """Scan content: an archive by its members, a pickle by its strings, JSON by its values, the rest by lines."""
    if data[:2] == b"PK" and zipfile.is_zipfile(BytesIO(data)):
        yield from _scan_zip(data, name, place, depth, known)
    elif data[257:262] == b"ustar":
        yield from _scan_tar(data, name, place, depth, known)
    elif unpack := next((opened for start, opened in _UNPACKERS.items() if data.startswith(start)), None):
        yield from _scan_packed(unpack, data, name, place, depth, known)
    elif data[:1] == b"\x80" and data[-1:] == b".":
        strings = _pickle_strings(data)
        yield from _scan_value(strings, name, f"{place}pickle", known, depth + 1)
    elif data.startswith(b"\x93NUMPY"):  # its header would hide that letters take four bytes
        yield from scan_bytes(data[data.find(b"\n", 0, 1 << 16) + 1 :], name, f"{place}array ", depth + 1, known)
    else:
        # JSON is searched twice: by value because escapes hide text, by line because what is cut hides the rest.
        for text in {_decoded(data): None, data.decode("utf-8", errors="replace"): None}:
            found = list(_scan_value(_as_json(text), name, place, known)) or list(
                _scan_lines(text, name, place, known)
            )
            if not found and (whole := joined(text)) != text:
                found = list(_scan_lines(whole, name, f"{place}joined ", known))
            yield from found
            if found:
                return


def _decoded(data: bytes) -> str:
    """The text of a file, in the encoding that its first bytes show, which may be a guess."""
    for start, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(start):
            return data.decode(encoding, errors="replace")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    first = data[:64]
    if len(first) >= 8 and first.count(0) * 5 > len(first) * 2:  # Latin text in two or four bytes a letter, unmarked
        width = "32" if first.count(0) * 3 > len(first) * 2 else "16"
        return data.decode(f"utf-{width}-{'be' if first[0] == 0 else 'le'}", errors="replace")
    return data.decode("utf-8", errors="replace")


def _scan_packed(unpack, data: bytes, name: str, place: str, depth: int, known: tuple) -> Iterator[Finding]:
    try:
        with unpack(BytesIO(data)) as packed:
            inner = packed.read(MAX_MEMBER_BYTES + 1) if depth < MAX_DEPTH else None
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
        yield from _scan_lines(data.decode("utf-8", errors="replace"), name, place, known)
        return
    if inner is None or len(inner) > MAX_MEMBER_BYTES:
        yield Finding(name, f"{place}packed".strip(), "an archive that cannot be searched", "too deep or too big")
    else:
        yield from scan_bytes(inner, name, f"{place}unpacked ", depth + 1, known)


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


def _scan_lines(text: str, name: str, place: str, known: tuple) -> Iterator[Finding]:
    if found := _PATTERNS["a netrc entry"].search(text):  # its three words may stand on three lines
        yield Finding(name, f"{place}line {text.count(chr(10), 0, found.start()) + 1}", "a netrc entry", "machin…")
        return
    for number, line in enumerate(text.splitlines(), 1):
        value = _as_json(line)
        inside = _scan_value(value, name, f"{place}line {number}", known) if value is not None else iter(())
        if (finding := next(inside, None)) is not None:  # a line of JSONL
            yield finding
        else:
            yield from _scan_text(line, name, f"{place}line {number}", known)


def _scan_text(text: str, name: str, place: str, known: tuple) -> Iterator[Finding]:
    # A SentencePiece model carries the path its trainer read from: Mistral's own holds one, and every copy of it does.
    others_paths, text = name.endswith(".model"), undisguised(text)
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


def _scan_value(value, name: str, place: str, known: tuple, depth: int = 0) -> Iterator[Finding]:
    """Walk a JSON-like value; the place of a finding is its key path."""
    if isinstance(value, str):
        yield from _scan_text(value, name, place, known)
        if packed := _from_base64(value):
            yield from scan_bytes(packed, name, f"{place} in base64 ", MAX_DEPTH - 1, known)
    elif isinstance(value, bytes) and not value.startswith(b"\x89PNG"):
        if depth <= MAX_DEPTH:
            yield from scan_bytes(value, name, f"{place} ", depth, known)
        else:
            yield Finding(name, place, "an archive that cannot be searched", "too deep")
    elif isinstance(value, dict | _Pairs):
        for key, item in value.items() if isinstance(value, dict) else value:
            where = f"{place}.{key}".lstrip(".") if len(str(key)) < 80 else place
            if SECRET_KEYS.search(str(key)) and isinstance(item, str) and re.fullmatch(r"\S{6,}", item):
                yield Finding(name, where, "a secret by its name", f"{item[:2]}…")
                continue
            yield from _scan_text(str(key), name, f"{place} a key".strip(), known)
            yield from _scan_value(item, name, where, known, depth)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _scan_value(item, name, f"{place}[{index}]", known, depth)


def _from_base64(text: str) -> bytes | None:
    """The text that a value holds in base64; None where it is another, or holds no text."""
    if not (24 <= len(text) <= 1 << 20 and len(text) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text)):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if data[:64].isascii() and data[:64].decode().isprintable() else None


class _Pairs(list):
    """An object of JSON with every one of its keys, also one that stands there twice."""


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


def _scan_tar(data: bytes, name: str, place: str, depth: int, known: tuple) -> Iterator[Finding]:
    """Search the members; where nothing is found, or the archive is cut, what stands between them, too."""
    found = []
    with suppress(tarfile.TarError, OSError, ValueError), tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
        for member in archive:
            where = f"{place}member {member.name} "
            found += _scan_text(f"{member.name}\n{member.linkname}", name, where.strip(), known)
            if depth >= MAX_DEPTH or member.size > MAX_MEMBER_BYTES:
                kind = "an archive that cannot be searched"
                found.append(Finding(name, where.strip(), kind, "too deep or too big"))
            elif member.isfile():
                found += scan_bytes(archive.extractfile(member).read(), name, where, depth + 1, known)
    yield from found or _scan_lines(data.decode("utf-8", errors="replace"), name, place, known)


def _pickle_strings(data: bytes) -> list[str | bytes]:
    strings = []
    try:
        for _, argument, _ in pickletools.genops(data):
            if isinstance(argument, str | bytes):
                strings.append(argument)
    except ValueError:  # not a pickle after all, or a cut one: search what it holds as text
        strings.append(data.decode("utf-8", errors="replace"))
    return strings


def _as_json(text: str):
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text.lstrip(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):  # broken or nested without end: searched as text only
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
