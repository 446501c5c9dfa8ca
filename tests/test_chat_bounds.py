"""What the chat page takes: requests of bounded size, about chats of any length, and files that were sent to it."""

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llava_mistral.chatting.answering import Chat, Source
from llava_mistral.chatting.page import page, serve
from llava_mistral.ground import served
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.served import MOST_ASKED, MOST_UPLOADED, Guarded
from tests.support.hub_requests import wait_until
from tests.support.tiny_publications import png

shows = pytest.mark.case
UPLOAD = "/gradio_api/upload"


def asked(path: str, headers: dict | None = None, sizes: tuple = (0,)) -> tuple[int, int]:
    """The status of a request whose body comes in pieces of `sizes`, and how many bytes the server behind took."""
    pytest.importorskip("starlette")
    taken, sent, pieces = [], [], list(sizes)

    async def server(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            taken.append(len(message["body"]))
            if not message["more_body"]:
                return await send({"type": "http.response.start", "status": 200, "headers": []})

    async def request():
        body = bytes(pieces.pop())
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    async def reply(message):
        sent.append(message)

    named = {"host": "127.0.0.1:7860", **(headers or {})}
    scope = {
        "type": "http",
        "path": path,
        "query_string": b"",
        "headers": [(key.encode(), named[key].encode()) for key in named],
    }
    asyncio.run(Guarded(server, local=True)(scope, request, reply))
    return (sent[0]["status"] if sent else 0), sum(taken)


@pytest.mark.parametrize(("path", "most"), [(UPLOAD, MOST_UPLOADED), ("/gradio_api/call/chat", MOST_ASKED)])
@shows("S37", "refused")
def test_a_request_of_many_bytes_is_refused_whether_it_says_so_or_not(path, most):
    assert asked(path, {"content-length": str(most + 1)}) == (413, 0)
    piece = 16 << 20
    status, taken = asked(path, sizes=(piece,) * (most // piece + 3))
    assert status == 0 and taken <= most


@shows("S37", "accepted")
def test_a_question_with_pictures_is_taken():
    assert asked(UPLOAD, {"content-length": str(24 << 20)}, (8 << 20,) * 3) == (200, 24 << 20)


class Short(Chat):
    def _context(self) -> int:
        return 100


class Words:
    """A processor to which each letter is a token."""

    def __init__(self):
        self.worded = 0

    def apply_chat_template(self, messages, **_):
        import torch

        self.worded += 1
        return {"input_ids": torch.zeros(1, sum(len(part["text"]) for turn in messages for part in turn["content"]))}


def chat_of(count: int, length: int) -> tuple[Words, Chat, list[dict]]:
    turns = [{"role": "user", "content": [{"type": "text", "text": "a" * length}]} for _ in range(count)]
    return (words := Words()), Short(Source("a"), None, words, 20), turns


@pytest.mark.parametrize(("count", "length", "left_out"), [(1, 99, 0), (3, 20, 0), (5, 20, 2), (7, 20, 4), (3, 90, 2)])
def test_what_no_longer_fits_is_left_out_the_oldest_first(count, length, left_out):
    _, chat, turns = chat_of(count, length)
    inputs, found = chat._fitting(turns)
    assert found == left_out and inputs["input_ids"].shape[1] == length * (count - left_out)


@shows("S37", "refused")
def test_a_chat_of_thousands_of_turns_is_worded_a_few_times():
    """One wording a turn took minutes, in which nobody else was answered."""
    words, chat, turns = chat_of(4001, 10)
    assert chat._fitting(turns)[1] == 3994 and words.worded < 20


def test_a_question_that_is_too_long_alone_is_refused():
    with pytest.raises(BadInput, match="are 100 tokens, and the model takes 100"):
        _, chat, turns = chat_of(3, 100)
        chat._fitting(turns)


# ---- the page as Gradio serves it


@contextmanager
def serving() -> Iterator[str]:
    """The address of a page whose model has no weights."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    made = page(Chat(Source("outputs/model"), None, None, 12))
    try:
        yield serve(made, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")[1].rstrip("/")
    finally:
        made.close()


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> Iterator[Path]:
    """Where Gradio keeps what was sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("sent")))
        yield Path(os.environ["GRADIO_TEMP_DIR"])


@pytest.fixture(scope="module")
def url(sent) -> Iterator[str]:
    with serving() as url:
        yield url


def send(address: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """Status and body of the answer to a request; 0 where the connection was ended while it was being sent."""
    request = urllib.request.Request(address, body, {"Content-Type": kind} if body else {})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, ConnectionError):
        return 0, b""


def send_file(url: str, content: bytes) -> tuple[int, bytes]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return send(url + UPLOAD, head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


def ask_about(url: str, file: dict[str, str]) -> str:
    """What the page says to a question about a file that is named so, event by event."""
    question = {"text": "what is it", "files": [{**file, "meta": {"_type": "gradio.FileData"}}]}
    status, said = send(f"{url}/gradio_api/call/chat", json.dumps({"data": [question, 12, 0, "", []]}).encode())
    return send(f"{url}/gradio_api/call/chat/{json.loads(said)['event_id']}")[1].decode() if status == 200 else "error"


@shows("S37", "refused")
def test_a_file_of_sixty_megabytes_is_refused(url, sent):
    assert send_file(url, bytes(60_000_000))[0] in (413, 0)
    assert not [path for path in sent.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


@shows("S37", "accepted")
def test_a_picture_that_was_sent_is_looked_at_and_deleted_when_it_is_old(monkeypatch):
    monkeypatch.setattr(served, "KEPT", (1, 1))
    with serving() as url:
        status, said = send_file(url, png(1))
        (path,) = json.loads(said)
        assert status == 200 and "event: complete" in ask_about(url, {"path": path})
        wait_until(lambda: not Path(path).exists(), 60)


READ = ["/gradio_api/file={}", "/file={}", "/gradio_api/file=..{}", "/gradio_api/file/{}", "/static/..%2f..%2f..{}",
        "/assets/..%2f..%2f..{}", "/static/../../../..{}"]  # fmt: skip


@pytest.mark.parametrize("route", READ)
def test_no_address_of_the_page_shows_a_file_that_was_not_sent_to_it(url, tmp_path, route):
    (tmp_path / "secret.png").write_bytes(b"salaries")
    for file in (tmp_path / "secret.png", "/etc/passwd"):
        status, said = send(url + route.format(str(file)))
        assert b"salaries" not in said and b"root:" not in said and (status >= 400 or b"<html" in said)


@pytest.mark.parametrize("named", [{"path": "SECRET"}, {"path": "/etc/passwd"}, {"path": "../../../etc/passwd"},
                                   {"path": "URL/x.png"}, {"path": "x.png", "url": "URL/x.png"},
                                   {"path": "https://example.org/x.png"}])  # fmt: skip
def test_a_question_names_no_file_of_the_machine_and_no_address(url, tmp_path, listener, named):
    """Gradio fetches what a request names; `URL` is an address of this machine."""
    (tmp_path / "secret.png").write_bytes(png(2))
    named = {
        key: text.replace("SECRET", f"{tmp_path}/secret.png").replace("URL", listener[0])
        for key, text in named.items()
    }
    said = ask_about(url, named)
    assert "error" in said and "event: complete" not in said and "root:" not in said and not listener[1]
    assert send(f"{url}/gradio_api/proxy={listener[0]}/x")[0] >= 400 and not listener[1]
