"""Headless Chromium, what it made of a page, and an address that counts who calls it."""

import shutil
import subprocess
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def listener():
    """An address that counts who calls it."""
    calls = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            calls.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", calls
        server.shutdown()


def dom(page: Path) -> str:
    """The page as Chromium has it after its scripts, if any, ran for two seconds."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    command = [chromium, *options, f"--user-data-dir={page.parent / 'profile'}", page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def elements(page: str) -> list[tuple]:
    """Every element of a page that may load or do something: its name, and the names and values of its attributes."""
    links = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            kept = [pair for pair in attributes if pair[0] in ("src", "href", "style") or pair[0].startswith("on")]
            links.append((tag, *(part for pair in kept for part in pair)))

    Reader().feed(page)
    return links
