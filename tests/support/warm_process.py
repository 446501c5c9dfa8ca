"""A process that has imported the heavy libraries and forks one training run after another, to be killed at will.

torch has computed nothing before a fork, so that a run starts from the state of a new interpreter, six seconds sooner.
As a program it reads one JSON request a line and answers each with one JSON line.
"""

import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HOME = Path(__file__).parents[2]
WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


@dataclass
class Ended:
    """How a run ended: its exit code (negative: of a signal), its output, and what it did to the watched folder."""

    code: int
    seconds: float
    stdout: str
    stderr: str
    events: list[str] = field(default_factory=list)


class WarmProcess:
    """The client's side. `run` starts `python command…` and waits for its end.

    Args:
        environment: of the process; None: this one's.
    """

    def __init__(self, environment: dict[str, str] | None = None):
        self.environment = environment

    def __enter__(self):
        command = [sys.executable, "-m", "tests.support.warm_process"]
        self.process = subprocess.Popen(
            command,
            cwd=HOME,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment or {**os.environ},
        )
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def run(self, command, watch, *, after=None, at=None, nth=1, send="SIGKILL", descriptors=None, cwd=HOME) -> Ended:
        """Run `command`; send it `send` after `after` seconds, or from its `nth` event on that matches `at`.

        An event is what Python is about to do to a file below `watch`, "os.rename .partial/checkpoint-2 checkpoint-2".
        Signals other than SIGKILL go to the whole group, as a terminal and a scheduler send them. `descriptors`: how
        many files it may open at once. `cwd`: where it runs.
        """
        request = {"command": list(map(str, command)), "watch": str(watch), "after": after}
        request |= {
            "cwd": str(cwd),
            "at": at,
            "nth": nth,
            "signal": int(getattr(signal, send)),
            "descriptors": descriptors,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


def serve() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers

    import llava_mistral.training.saving.interruption
    import llava_mistral.training.trainer  # noqa: F401
    from llava_mistral.training.loss_chart import draw_losses

    for name in ("AutoModelForImageTextToText", "AutoProcessor", "CLIPModel", "MistralForCausalLM", "Trainer"):
        getattr(transformers, name)
    with tempfile.TemporaryDirectory() as folder:  # matplotlib reads its fonts once
        draw_losses([{"step": 1, "loss": 1.0, "learning_rate": 1e-5}], Path(folder) / "loss.png", "t")
    gc.freeze()  # or each run walks through all that the libraries brought, when it ends
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(request: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder)
        begun = time.monotonic()
        if not (child := os.fork()):
            os._exit(_become(request, said))
        if request["after"] is not None:
            time.sleep(request["after"])
            with suppress(ProcessLookupError):
                os.kill(child, request["signal"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        events = said / "events"
        return {
            "code": code,
            "seconds": time.monotonic() - begun,
            "stdout": (said / "stdout").read_text() if (said / "stdout").exists() else "",
            "stderr": (said / "stderr").read_text() if (said / "stderr").exists() else "",
            "events": events.read_text().splitlines() if events.exists() else [],
        }


def _become(request: dict, said: Path) -> int:
    from llava_mistral.commands.study import become

    os.setsid()
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    watch_folder(request, os.open(said / "events", os.O_WRONLY | os.O_CREAT))
    if request["descriptors"] is not None:
        limit = 1 + max(map(int, os.listdir("/proc/self/fd"))) + request["descriptors"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return become(request["command"])


def watch_folder(request: dict, log: int) -> None:
    """Write each event of this process to `log`, and send the signal at the one that the request names."""
    folder, owner, left = request["watch"], os.getpid(), [request["nth"]]
    wanted = re.compile(request["at"]) if request["at"] else None

    def hook(event, arguments):
        if event not in WATCHED or os.getpid() != owner:
            return
        paths = [os.fspath(path) for path in arguments[:2] if isinstance(path, str | os.PathLike)]
        # Inside of shutil.rmtree names are relative to an open folder.
        if not any(path.startswith(folder) or not path.startswith("/") for path in paths):
            return
        if event == "open" and not paths[0].startswith(folder):
            return
        text = " ".join([event, *(os.path.relpath(path, folder) if path[0] == "/" else path for path in paths)])
        os.write(log, text.encode() + b"\n")
        if wanted and wanted.search(text):
            left[0] -= 1
            if left[0] <= 0:
                kill = os.kill if request["signal"] == signal.SIGKILL else os.killpg
                kill(owner, request["signal"])

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
