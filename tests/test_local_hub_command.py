"""The command `llava-mistral hub`: what it prints and refuses, and what outlives kill -9."""

import hashlib
import http.client
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.local_hub import Fault, LocalHub
from llava_mistral.local_hub.store import Store
from tests.support.hub_requests import (
    PUSH,
    TOKEN,
    ask,
    assert_published,
    commit_body,
    create,
    end,
    run_client,
    run_command,
    save_four_files,
    start_client,
    start_command,
    upload_address,
    wait_until,
)
from tests.support.running import HOME


@pytest.fixture
def hub(tmp_path):
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    return save_four_files(tmp_path / "folder")


def test_the_command_serves_and_ends_cleanly(tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('[{"route": "info", "status": 503, "retry_after": 2}]')
    server, url = start_command(tmp_path / "root", "--faults", rules, "--log", tmp_path / "log")
    try:
        create(url)
        assert ask(url, "GET", "/api/models/me/model").status == 503
        idle = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        idle.request("GET", "/api/models/me/model")
        assert idle.getresponse().status == 200
        second = run_command("--root", tmp_path / "root")
        assert second[0] == 2 and "another Local Hub serves this folder" in second[1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert len((tmp_path / "log").read_text().splitlines()) == 3
    finally:
        end(server)


def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("[{}]")
    with LocalHub(tmp_path / "other") as hub:
        port = hub.url.rsplit(":", 1)[1]
        for arguments in (
            [],
            ["--root", tmp_path / "root", "--prot", 1],
            ["--root", tmp_path / "root", "--port", "many"],
            ["--root", tmp_path / "root", "--port", 99999],
            ["--root", tmp_path / "root", "--port", port],
            ["--root", tmp_path / "file" / "root"],
            ["--root", tmp_path],
            ["--root", tmp_path / "root", "--faults", tmp_path / "absent.json"],
            ["--root", tmp_path / "root", "--faults", tmp_path / "file"],
            ["--root", tmp_path / "root", "--log", tmp_path / "no" / "log"],
        ):
            code, said = run_command(*arguments)
            assert code == 2 and said.count("\n") == 1 and "; " in said, (arguments, said)


@pytest.mark.case("H8", "survived")
def test_nothing_acknowledged_is_lost_and_nothing_half_done_is_seen_after_kill_9(tmp_path):
    acknowledged, stop, number = [], random.Random(0), 0
    for round_ in range(6):
        server, url = start_command(tmp_path / "root")
        if not round_:
            create(url)
        killer = threading.Timer(0.25 * stop.random(), server.kill)
        try:
            while True:
                number += 1
                content = random.Random(number).randbytes(50_000)
                ask(url, "PUT", upload_address(url, content), content, token=None)
                body = commit_body({f"{number}.txt": b"x"}, {f"{number}.bin": content}, summary=str(number))
                answer = ask(url, "POST", "/api/models/me/model/commit/main", body)
                acknowledged.append((str(number), answer.json()["commitOid"]))
                if killer.ident is None:  # after the first commit of a round, which a busy machine delays
                    killer.start()
        except (ConnectionError, http.client.HTTPException):
            end(server)
    store = Store(tmp_path / "root")
    try:
        repo = store.repo("models", "me/model")
        history = {commit["title"]: commit_id for commit_id, commit in repo.history(repo.resolve("main"))}
        assert len(acknowledged) >= 6 and all(history.get(title) == oid for title, oid in acknowledged)
        for entry in repo.files(repo.resolve("main")).values():
            content = store.blob(entry.sha256).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry.sha256, entry.size)
        assert len(repo.files(repo.resolve("main"))) == 2 * (len(history) - 1) + 1
        assert not any(store.incoming.iterdir())
    finally:
        store.close()


@pytest.mark.case("H8", "survived")
def test_a_push_outlives_a_server_that_is_killed_and_started_again(folder, tmp_path):
    rules, log = tmp_path / "rules.json", tmp_path / "log"
    rules.write_text('[{"route": "put", "delay": 30, "times": 0, "skip": 1}]')
    server, url = start_command(tmp_path / "root", "--faults", rules, "--log", log)
    environment = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    try:
        client = start_client({**os.environ, **environment}, PUSH, folder)
        wait_until(lambda: '"put"' in log.read_text())
        end(server)
        server, url = start_command(tmp_path / "root", "--port", url.rsplit(":", 1)[1])
        out, err = client.communicate(timeout=60)
        assert client.returncode == 0, err[-3000:]
        assert_published(url, folder)
    finally:
        end(server)


def test_a_stopped_hub_leaves_no_thread_and_starts_again_on_its_folder(tmp_path):
    before = threading.active_count()
    with LocalHub(tmp_path / "root", token=TOKEN) as hub:
        create(hub)
        idle = http.client.HTTPConnection(hub.url.removeprefix("http://"))
        idle.request("GET", "/api/agent-harnesses")
        idle.getresponse().read()
        with pytest.raises(BadInput, match="another Local Hub"):
            LocalHub(tmp_path / "root")
    assert threading.active_count() == before
    with LocalHub(tmp_path / "root") as hub:
        assert ask(hub, "GET", "/api/models/me/model", token=None).status == 200
    with pytest.raises(BadInput):
        Fault()


def test_the_command_prints_what_a_client_must_export_to_write_here(tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-m", "llava_mistral", "hub", "--root", tmp_path / "root"],
        cwd=HOME,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        server.stdout.readline()
        said = server.stdout.readline().split()
        assert said[0] == "export"
        given = dict(word.split("=", 1) for word in said[1:])
        run_client(
            {**os.environ, "HF_HOME": str(tmp_path), **given},
            "from huggingface_hub import create_repo\ncreate_repo('me/model'); print('{}')",
        )
    finally:
        end(server)
