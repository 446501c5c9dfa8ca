"""Unique ids for records: the same words about the same picture twice are an error, a repeated id alone is not."""

import hashlib
import json
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput


class RecordNames:
    """Ids given to records. LLaVA-665k names its records after pictures, and asks several conversations about one
    picture under one id; the same words about the same picture twice are a fault. Some 200 bytes a record."""

    def __init__(self, path: Path):
        self.path = path
        self._taken: set[bytes] = set()
        self._said: set[bytes] = set()
        self._next: dict[str, int] = {}

    def unique(self, name: str, words: Any, pictures: list[dict[str, Any]], index: int) -> str:
        """Return `name`, numbered when it is not the first of its kind.

        Raises:
            BadInput: the same name, words and pictures were there before.
        """
        files = [cell["path"] or hashlib.sha256(cell["bytes"]).hexdigest() for cell in pictures]
        digest = _short(json.dumps([name, words, files]).encode())
        if digest in self._said:
            raise BadInput("occurs twice", remedy="keep one of the two", file=self.path, record=index, field="id")
        self._said.add(digest)
        return self.free(name, "~")

    def free(self, name: str, sign: str) -> str:
        """Return `name`, or the first of `name~2`, `name~3`, … that no record has."""
        own, number = name, self._next.get(name, 2)
        while (short := _short(own.encode())) in self._taken:
            own, number = f"{name}{sign}{number}", number + 1
            self._next[name] = number
        self._taken.add(short)
        return own


def _short(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
