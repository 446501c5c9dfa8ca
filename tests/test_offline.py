"""The guard that keeps the tests offline holds where it is needed, and lets this machine through."""

import subprocess
import sys

import pytest

from tests.support.offline import asked
from tests.support.running import run_apart

FOREIGN = {
    "a name": "import socket; socket.getaddrinfo('huggingface.co', 443)",
    "an old look-up": "import socket; socket.gethostbyname('huggingface.co')",
    "a number": "import socket; socket.create_connection(('192.0.2.1', 443), timeout=1)",
    "a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 443))",
    "the Hub's client": "import huggingface_hub as h; h.HfApi(endpoint='http://hub.invalid').model_info('a/b')",
}
STARTS = {
    "a child": [sys.executable, "-c"],
    "a child without its environment": [sys.executable, "-E", "-P", "-c"],
    "a grandchild": [
        sys.executable,
        "-c",
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-I', '-c', sys.argv[1]]))",
    ],
    "a fork of a child": [
        sys.executable,
        "-c",
        "import os, sys\nif not os.fork():\n    exec(sys.argv[1])\nsys.exit(os.waitstatus_to_exitcode(os.wait()[1]))",
    ],
}


@pytest.mark.parametrize("how", STARTS)
def test_no_process_that_is_started_reaches_a_foreign_host(how):
    done = subprocess.run([*STARTS[how], FOREIGN["a name"]], env={}, capture_output=True, text=True)
    assert done.returncode != 0 and "PermissionError: offline: socket.getaddrinfo huggingface.co" in done.stderr
    assert asked().startswith("socket.getaddrinfo huggingface.co by ")


@pytest.mark.parametrize("what", FOREIGN)
def test_an_error_that_is_swallowed_is_noted_all_the_same(what):
    swallowed = f"try:\n    {FOREIGN[what]}\nexcept Exception as error:\n    print('swallowed')"
    done = subprocess.run([sys.executable, "-c", swallowed], capture_output=True, text=True, env={})
    assert (done.stdout, done.returncode) == ("swallowed\n", 0), done.stderr
    assert len(asked().splitlines()) >= 1


@pytest.mark.parametrize("what", [what for what in FOREIGN if "client" not in what])
def test_this_very_process_is_guarded(what):
    with pytest.raises(PermissionError, match="offline"):
        exec(FOREIGN[what])
    assert len(asked().splitlines()) == 1


def test_this_machine_may_be_asked():
    code = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); port = server.getsockname()[1]\n"
        "for host in ('127.0.0.1', 'localhost'):\n    socket.create_connection((host, port)).close()\n"
        "socket.getaddrinfo(None, 0); a, b = socket.socketpair(); a.sendall(b'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    assert asked() == ""


def test_a_guarded_process_is_otherwise_the_same():
    """It finds the same packages, and the commands beside its interpreter."""
    code = "import sys, torch, transformers, pathlib; print(torch.__file__, transformers.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    import torch
    import transformers

    assert done.stdout.split() == [torch.__file__, transformers.__file__], done.stderr


def test_a_test_fails_whose_child_asked_somebody_else(tmp_path):
    child = f"try:\n    {FOREIGN['a number']}\nexcept OSError:\n    pass"
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys\n"
        f"def test_foreign(): assert subprocess.call([sys.executable, '-c', {child!r}]) == 0\n"
        "def test_here(): assert subprocess.call([sys.executable, '-c', 'pass']) == 0\n"
    )
    options = ("-c", "/dev/null", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rE", tmp_path / "test_it.py")
    done = run_apart("-m", "pytest", *options, code=1)
    assert "2 passed, 1 error" in done.stdout and "not offline" in done.stdout
    assert "test_foreign" in done.stdout.split("short test summary")[1]
