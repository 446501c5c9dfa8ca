"""Who may ask the pages that Gradio serves on this machine, and which files of a folder they show."""

import asyncio
import socket
from http.cookies import SimpleCookie

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.served import Guarded, serve

KEY = "k" * 32
ENTERED = {"cookie": f"key_7860={KEY}"}


def ask(guard: Guarded, path: str, query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    headers = {"host": "127.0.0.1:7860", **headers}
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "server": ("127.0.0.1", 7860),
    }
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    sent = []

    async def receive():
        await asyncio.sleep(60)  # the reader stays

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, body


async def behind(scope, receive, send):
    """The page that is guarded."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


@pytest.fixture
def guard(tmp_path):
    pytest.importorskip("starlette", reason="Gradio brings it")
    (tmp_path / "work" / "a b").mkdir(parents=True)
    for name in ("work/a b/report.html", "work/train.csv", "work/recipe.yaml", "secret.html"):
        (tmp_path / name).write_text(f"<p>{name}")
    (tmp_path / "work" / "link.html").symlink_to(tmp_path / "secret.html")
    return Guarded(behind, local=True, key=KEY, folder=tmp_path / "work")


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"host": "rebound.example:7860"}, 403, b"no other host"),
        ({"host": "127.0.0.1.example"}, 403, b"no other host"),
        ({"origin": "http://elsewhere.example"}, 403, b"pages of other origins"),
        ({"origin": "http://127.0.0.1:8000"}, 403, b"pages of other origins"),
        ({"origin": "null"}, 403, b"pages of other origins"),
        ({"cookie": "key_7860=wrong"}, 401, b"Open the whole link"),
        ({"cookie": ""}, 401, b"Open the whole link"),
        ({"origin": "http://127.0.0.1:7860"}, 200, b"the page"),
        ({"host": "localhost:9999"}, 200, b"the page"),
        ({"host": "[::1]:7860"}, 200, b"the page"),
    ],
)
def test_only_the_reader_of_the_link_is_let_in(guard, headers, status, said):
    found, _, body = ask(guard, "/gradio_api/queue/join", **{**ENTERED, **headers})
    assert found == status and said in body


def test_the_key_goes_from_the_link_into_a_cookie(guard):
    assert ask(guard, "/", "key=wrong")[0] == 401
    status, headers, _ = ask(guard, "/", f"key={KEY}")
    cookie = SimpleCookie(headers["set-cookie"])["key_7860"]
    assert status == 303 and headers["location"] == "/" and cookie.value == KEY
    assert cookie["httponly"] and cookie["samesite"] == "strict"
    assert "frame-ancestors 'self'" in ask(guard, "/", **ENTERED)[1]["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["../secret.html", "/etc/passwd", "link.html", "train.csv", "recipe.yaml", "a b", "", "%00.html", "absent.html"],
)
def test_nothing_but_reports_below_the_folder_is_shown(guard, path):
    assert ask(guard, f"/files/{path}", **ENTERED)[0] == 404


def test_a_report_is_shown_apart_from_the_page_and_without_scripts(guard):
    status, headers, body = ask(guard, "/files/a%20b/report.html", **ENTERED)
    assert status == 200 and body == b"<p>work/a b/report.html"
    policy = headers["content-security-policy"]
    assert policy.endswith("; sandbox") and "default-src 'none'" in policy and "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert ask(guard, "/files/a%20b/report.html")[0] == 401


def test_a_port_that_is_taken_is_told_in_a_line():
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"field port: {port} is in use; name another, or leave --port out"):
            serve(None, server_port=port)


def test_a_page_for_everybody_asks_for_no_key_and_no_name():
    pytest.importorskip("starlette", reason="Gradio brings it")
    status, headers, body = ask(Guarded(behind), "/", host="my.space", origin="https://elsewhere.example")
    assert status == 200 and body == b"the page" and "frame-ancestors" not in headers["content-security-policy"]
