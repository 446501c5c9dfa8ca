"""The containers in which a secret can hide."""

import io
import json
import pickle
import zipfile


def escaped(text: str) -> bytes:
    return json.dumps({"a": [text]}).replace(text[3], f"\\u{ord(text[3]):04x}").replace("/", "\\/").encode()


def zipped(text: str, data: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/part.txt", data if data is not None else f"first\n{text}")
    return buffer.getvalue()


FORMS = {
    "text": lambda text: f"line one\nvalue = '{text}'\n".encode(),
    "json": lambda text: json.dumps({"a": {"b": [1, text]}}).encode(),
    "escaped json": escaped,
    "pickle": lambda text: pickle.dumps({"a": (1, text)}),
    "zip": zipped,
    "zip in zip": lambda text: zipped("", zipped(text)),
    "utf-16": lambda text: f"value {text}".encode("utf-16"),
}
