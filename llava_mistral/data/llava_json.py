"""JSON files of records as training rows, read record by record: the 665k mix is a gigabyte and never lies in memory.

A file is a list, as LLaVA's, or JSON lines. `llava_record` makes of a training row what is read as the same row again.
"""

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.data.columns import check_there, renamed_record, source_columns
from llava_mistral.data.json_records import is_lines, read_lines, read_records
from llava_mistral.data.records import RecordReader, form_of, records_rows
from llava_mistral.data.turns import FORM, IMAGE_TOKEN, chat_of
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder

_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
Row = dict[str, Any]


def json_rows(
    path: Path, folders: list[PictureFolder], bad: BadSamples, columns: Mapping[str, str], **wording: str
) -> Generator[Row, None, int]:
    """Yield the rows of a JSON file of records; returns the number of its records.

    Args:
        folders: what the pictures lie below.
        bad: what becomes of records that cannot be used. Absent pictures are named together, after the last record.
        columns: {our name: the records' key}.
        wording: `conversations` and `answer_style`, see `RecordReader`.

    Raises:
        BadInput: the file is no such list (also when bad samples are skipped), or a record cannot be used.
    """
    from tqdm import tqdm

    wanted, seen = set(source_columns(columns)), set()
    bar = tqdm(total=path.stat().st_size, desc=f"reading {path.name}", unit="B", unit_scale=True, delay=2)

    def records() -> Iterator[tuple[Any, int]]:
        for record, read in (read_lines if is_lines(path) else read_records)(path):
            bar.update(read - bar.n)
            seen.update(wanted & record.keys() if isinstance(record, dict) else ())
            yield renamed_record(record, columns, path), read

    count = yield from records_rows(records(), RecordReader(path, folders, bad, **wording), None)
    bar.close()
    if not count:
        raise BadInput("is not a list of records, or an empty one", remedy=FORM, file=path)
    check_there(columns, seen, path)
    return count


def first_form(path: Path, columns: Mapping[str, str]) -> str | None:
    """Return the form of the first record, by which the rows' columns go; None where there is none that is known."""
    try:
        record, _ = next((read_lines if is_lines(path) else read_records)(path))
        return form_of(set(renamed_record(record, columns, path)), path)
    except (BadInput, StopIteration, TypeError):
        return None


def llava_record(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the record of a training row whose pictures lie under `names`: LLaVA's form, where that can say it.

    Where a text holds an `<image>` that is not a picture's place, the record is one of `messages` with parts.
    """
    chat = chat_of(row | {"images": names}, answered=True)
    unlearned = [turn["role"] == "assistant" for turn in row["prompt"]]
    unlearned += [turn.get("loss") is False for turn in row["completion"]]
    record: dict[str, Any] = {"id": row["id"]}
    record |= {"image": names[0] if len(names) == 1 else names} if names else {}
    marks = [{"loss": False} if left else {} for left in unlearned]
    texts = [_text_of(turn["content"]) for turn in chat]
    tokens = [text.count(IMAGE_TOKEN) for text in texts]
    expected = sum(count for turn, count in zip(chat, tokens, strict=True) if turn["role"] == "user")
    if expected == sum(tokens) == len(names):
        turns = zip(chat, texts, marks, strict=True)
        conversation = [{"from": _SPEAKERS[turn["role"]], "value": text} | mark for turn, text, mark in turns]
        return record | {"conversations": conversation}
    turns = zip([*row["prompt"], *row["completion"]], marks, strict=True)
    return record | {"messages": [{"role": turn["role"], "content": turn["content"]} | mark for turn, mark in turns]}


def _text_of(content: str | list[dict[str, str]]) -> str:
    """Return a content as LLaVA writes it: a token and a line break for each picture before all words."""
    if isinstance(content, str):
        return content
    text = ""
    for part in content:
        if part["type"] == "text":
            text += part["text"]
        else:
            text += IMAGE_TOKEN + ("" if text.replace(IMAGE_TOKEN, "").strip() else "\n")
    return text
