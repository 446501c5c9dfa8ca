"""A token is shown to the endpoint it belongs to, and to no address that the endpoint or anybody else names."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_mistral.commands import publish as push_to_hub
from tests.support.hub_here import TOKEN as OURS
from tests.support.hub_here import hub_here, push, there
from tests.support.refusals import refused
from tests.support.tiny_publications import save_dataset


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_here(tmp_path, monkeypatch) as hub:
        yield hub


class Origin:
    """Another origin: it notes the headers of what it is sent and passes it on to `to`.

    A path that holds one of `redirected` it answers as the Hub does, with what it knows of the file and the address of
    the same path at `elsewhere`.
    """

    def __init__(self, to: str, redirected: tuple[str, ...] = (), elsewhere: str = ""):
        self.seen = seen = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                seen.append((self.path, dict(self.headers)))
                redirects = any(part in self.path for part in redirected)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                method = "HEAD" if redirects and "/resolve/" in self.path else self.command
                request = urllib.request.Request(to + self.path, body or None, dict(self.headers), method=method)
                try:
                    reply = urllib.request.urlopen(request, timeout=20)
                except urllib.error.HTTPError as error:
                    reply = error
                content, headers = reply.read(), dict(reply.headers)
                length = headers.pop("Content-Length") if self.command == "HEAD" else len(content)
                if redirects:
                    headers |= {"Location": elsewhere + self.path, "X-Linked-Size": length}
                    content, length = b"", 0
                self.send_response(307 if redirects else reply.status)
                for name, value in {**headers, "Content-Length": length}.items():
                    if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                        self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.case("S24", "refused")
@pytest.mark.case("S24", "accepted")
def test_the_token_goes_to_the_endpoint_and_to_no_other_origin(hub, tmp_path, monkeypatch):
    """Neither where large files are put, nor where a read is redirected: both are other origins on the Hub itself."""
    from huggingface_hub import constants

    from llava_mistral.local_hub import writing

    given_out = writing._object

    def moved(*actions: str):
        def give(hub, base, item):
            given = given_out(hub, base, item)
            for action in set(actions) & given.get("actions", {}).keys():
                address = given["actions"][action]["href"]
                given["actions"][action]["href"] = address.replace(base, storage.url)
            return given

        return give

    with (
        Origin(hub.url) as storage,
        Origin(hub.url) as mirror,
        Origin(hub.url, ("/resolve/", "/tree/"), mirror.url) as redirecting,
    ):
        monkeypatch.setattr(writing, "_object", moved("upload"))
        assert "published as" in push("dataset", save_dataset(tmp_path / "made"), "me/it")
        monkeypatch.setattr(writing, "_object", moved("upload", "verify"))
        other = save_dataset(tmp_path / "other", rows=3)
        refused(push_to_hub.main, "dataset", other, "me/other", output=tmp_path / "nothing")
        monkeypatch.setattr(constants, "ENDPOINT", redirecting.url)
        template = redirecting.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        there("dataset")
    assert {path.split("?")[0].rsplit("/", 1)[-1] for path, _ in storage.seen} > {"verify"} and mirror.seen
    for path, headers in storage.seen + mirror.seen:
        assert OURS not in str(headers) + path and "authorization" not in {name.lower() for name in headers}, path
    commits = [request["visitor"] for request in hub.requests if request["route"] == "commit"]
    assert commits == ["token"] and any(OURS in str(headers) for _, headers in redirecting.seen)
