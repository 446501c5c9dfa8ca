"""The one error a user meets for their own bad input: what was given, why it cannot work, what to do.

Every noun may raise it (the ▲ files, which travel to the Hub alone, raise `ValueError`); every verb turns it into one
line on standard error and exit code 2.
"""

from pathlib import Path


class BadInput(ValueError):
    """Input that cannot be used, named down to the field.

    Args:
        problem: what is wrong, as a clause without a full stop ("answer 7 is out of range for 4 choices").
        remedy: what to do about it, as an imperative clause ("give an index from 0 to 3").
        file: the file or folder the problem is in, as the user named it.
        record: the record inside `file`: an id or a zero-based index.
        field: the field inside the record, or the configuration key.

    `str(error)` is one line: ``file: record 12: field answer: problem; remedy``.
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
        place += [f"record {record}"] if record is not None else []
        place += [f"field {field}"] if field is not None else []
        line = ": ".join([*place, f"{problem}; {remedy}"])
        super().__init__(" ".join(line.split()))
