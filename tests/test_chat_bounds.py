"""What the chat page takes: requests of bounded size, about chats of any length."""

import asyncio

import pytest

from llava_mistral.chatting.answering import Chat, Source
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.served import MOST_ASKED, MOST_UPLOADED, Guarded

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
