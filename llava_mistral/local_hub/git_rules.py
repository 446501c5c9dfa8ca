"""The rules of .gitattributes and .gitignore: which files go to LFS, and which are ignored."""

from fnmatch import fnmatchcase

from llava_mistral.local_hub.messages import HubError

MOST, LONGEST = 1000, 1000  # rules of one file, and characters of a rule
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
    for line in _rules(attributes):
        pattern, *words = line.split()
        if _matches(pattern, path):
            large = "filter=lfs" in words or (large and "-filter" not in words)
    return large and size > 0  # an empty file has nothing to upload ahead of its commit


def is_ignored(path: str, rules: str) -> bool:
    """Return whether .gitignore rules leave a file out: the last rule that names it or a folder above it decides."""
    parts, ignored = path.split("/"), False
    for line in _rules(rules):
        pattern, folders = line.removeprefix("!"), len(parts) - line.endswith("/")
        above = ["/".join(parts[: depth + 1]) for depth in range(folders)]
        if any(_matches(pattern.rstrip("/"), name) for name in above):
            ignored = not line.startswith("!")
    return ignored


def _rules(text: str) -> list[str]:
    """Return the lines of a file of rules, without comments.

    Raises:
        HubError: 413, each file of a commit is held against each of them, and these would take minutes.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if len(lines) > MOST or any(len(line) > LONGEST for line in lines):
        raise HubError(413, f"more than {MOST} rules, or one of more than {LONGEST} characters")
    return lines


def _matches(pattern: str, path: str) -> bool:
    """Match as git does: a pattern with a slash against the whole path, one without against the last name.

    Between slashes by `fnmatch`, whose expressions do not go back over what a star took, and `**` name by name: the
    time grows with the product of the lengths, whatever the pattern.
    """
    if "/" not in pattern:
        return fnmatchcase(path.rsplit("/", 1)[-1], pattern.replace("[^", "[!"))
    parts = pattern.removeprefix("/").replace("[^", "[!").split("/")
    names = path.split("/")
    # reached[n]: the pattern's parts so far match the first n names.
    reached = [True] + [False] * len(names)
    for number, part in enumerate(parts):
        if part == "**":
            least = 1 if number == len(parts) - 1 else 0  # `a/**` is what is below a, and not a
            reached = [any(reached[: max(n + 1 - least, 0)]) for n in range(len(names) + 1)]
        else:
            reached = [n > 0 and reached[n - 1] and fnmatchcase(names[n - 1], part) for n in range(len(names) + 1)]
    return reached[-1]
