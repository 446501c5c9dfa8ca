"""The one error a user meets for their own bad input: what was given, why it cannot work, what to do.

Any module may raise it (the published files, `*_llava_mistral.py`, raise `ValueError`); every verb turns it into one
line on standard error and exit code 2.
"""

from pathlib import Path

LONGEST = 600  # characters of a part of the line; what is quoted in it may be a book


class BadInput(ValueError):
    """Input that cannot be used, named down to the field.

    Args:
        problem: what is wrong, as a clause without a full stop ("answer 7 is out of range for 4 choices").
        remedy: what to do about it, as an imperative clause ("give an index from 0 to 3").
        file: the file or folder the problem is in, as the user named it.
        record: the record inside `file`: an id or a zero-based index.
        field: the field inside the record, or the configuration key.

    `str(error)` is one line: ``file: record 12: field answer: problem; remedy``. Characters that would do something
    to a terminal are written as escapes.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str,
        file: str | Path | None = None,
        record: str | int | None = None,
        field: str | None = None,
    ):
        self.problem, self.remedy, self.file, self.record, self.field = problem, remedy, file, record, field
        place = [str(file)] if file is not None else []
        place += [f"record {_cut(record)}"] if record is not None else []
        place += [f"field {_cut(field)}"] if field is not None else []
        line = " ".join(": ".join([*place, f"{_cut(problem)}; {_cut(remedy)}"]).split())
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line))


def _cut(part: str | int) -> str:
    text = str(part)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def check_folders_above(path: Path, field: str) -> None:
    """Refuse an output below a file before hours of work are done for it.

    Raises:
        BadInput: what the path leads through is no folder.
    """
    nearest = next((folder for folder in path.parents if folder.exists() or folder.is_symlink()), None)
    if nearest is not None and not nearest.is_dir():
        raise BadInput(f"{nearest} is a file, not a folder", remedy="name a new folder", file=path, field=field)
