"""What .gitattributes and .gitignore say of a file: whether it is a large one, and whether it is left out."""

import re

REGULAR_LIMIT = 10 * 2**20  # bytes; larger files, and binary ones, go the large-file way
_LARGE = """7z arrow bin bz2 ckpt ftz gz h5 joblib lfs.* mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt
    pth rar safetensors tar.* tar tflite tgz wasm xz zip zst lz4 mds pcm sam raw aac flac mp3 ogg wav bmp gif png tiff
    jpg jpeg webp mp4 webm"""
GIT_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in [*(f"*.{ending}" for ending in _LARGE.split()), "saved_model/**/*", "*tfevents*"]
)


def is_large(path: str, size: int, sample: bytes, attributes: str) -> bool:
    """Return whether a file of `size` bytes that begins with `sample` is a large one.

    Great size and binary content make it one, unless a rule names the file; the last that does decides.
    """
    large = size > REGULAR_LIMIT or b"\0" in sample
    for line in attributes.splitlines():
        pattern, *words = line.split() or ["#"]
        if not pattern.startswith("#") and _matches(pattern, path):
            large = "filter=lfs" in words or (large and "-filter" not in words)
    return large and size > 0  # an empty file has nothing to upload ahead of its commit


def is_ignored(path: str, rules: str) -> bool:
    """Return whether .gitignore rules leave a file out: the last rule that names it or a folder above it decides."""
    parts, ignored = path.split("/"), False
    for line in (line.strip() for line in rules.splitlines()):
        if line and not line.startswith("#"):
            pattern, folders = line.removeprefix("!"), len(parts) - line.endswith("/")
            above = ["/".join(parts[: depth + 1]) for depth in range(folders)]
            if any(_matches(pattern.rstrip("/"), name) for name in above):
                ignored = not line.startswith("!")
    return ignored


def _matches(pattern: str, path: str) -> bool:
    """Match as git does: a pattern with a slash against the whole path, one without against the last name."""
    if "/" not in pattern:
        path = path.rsplit("/", 1)[-1]
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern.removeprefix("/"))
    translated = [
        parts.get(piece) or (piece.replace("[!", "[^") if piece[:1] == "[" else re.escape(piece)) for piece in pieces
    ]
    return re.fullmatch("".join(translated), path) is not None
