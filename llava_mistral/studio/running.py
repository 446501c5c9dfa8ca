"""One command of ours at a time, as a process of its own: started, watched, stopped."""

import codecs
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import read_bounded
from llava_mistral.ground.escaping import terminal
from llava_mistral.studio.steps import Action, Step, command_text, inside, words_of

MOST_TEXT = 200_000  # characters of a command's output that are kept, the newest ones
PATIENCE = 60  # seconds that a stopped command has to save before it is killed, when the studio ends
PAGE = re.compile(r"^(?:\* Running on local URL: +)?(https?://[^\s<>\"']+)$", re.MULTILINE)


@dataclass
class Run:
    """A command and what became of it."""

    words: list[str] = field(default_factory=list)
    report: str = ""  # where its report will be, below the studio's folder
    output: str = ""  # the folder of a training's log
    process: subprocess.Popen | None = None
    began: float = 0.0
    text: str = ""

    def __post_init__(self):
        self.reader = threading.Thread(target=self.read, daemon=True)

    @property
    def going(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def state(self) -> str:
        """How it stands, in words."""
        if self.process is None:
            return ""
        code = self.process.poll()
        ended = "stopped" if self.words[:1] == ["chat"] else "done"  # Gradio takes Ctrl-C for a good end
        named = {None: "running", 0: ended, 130: "stopped", 143: "stopped", -signal.SIGINT: "stopped"}
        return "killed" if code == -signal.SIGKILL else named.get(code, f"ended with exit code {code}")

    @property
    def link(self) -> str:
        """The address that a chat, or what was published, has."""
        found = PAGE.findall(self.text) if self.words[:1] in (["chat"], ["publish"]) else []
        return found[-1] if found and (self.words[0] == "publish" or self.going) else ""

    def read(self) -> None:
        """Take what it prints until it ends; of a progress bar the last state."""
        decode, raw = codecs.getincrementaldecoder("utf-8")("replace").decode, ""
        while piece := os.read(self.process.stdout.fileno(), 1 << 16):
            raw = (raw + decode(piece))[-MOST_TEXT:]
            self.text = "\n".join(terminal(line.rstrip("\r").rpartition("\r")[2]) for line in raw.split("\n"))


class Studio:
    """The folder that is worked in, and its one command."""

    def __init__(self, folder: Path):
        self.folder, self.run, self._lock = folder, Run(), threading.Lock()

    def start(self, step: Step, action: Action, values: Mapping[str, str]) -> None:
        """Start a step's command.

        Raises:
            BadInput: another one is running, or a value cannot be used.
        """
        values = {name: (value or "").strip() for name, value in values.items()}
        words = words_of(step, action, values, self.folder)
        with self._lock:
            if self.run.going:
                problem = f"`{command_text(self.run.words)}` is running"
                raise BadInput(problem, remedy="wait for it, or stop it first")
            process = subprocess.Popen(
                [sys.executable, "-m", "llava_mistral", *words],
                cwd=self.folder,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own processes are stopped with it
            )
            report = action.report.format_map({name: glob.escape(value) for name, value in values.items()})
            self.run = Run(words, report, values.get(action.output, ""), process, time.time())
            self.run.reader.start()

    def stop(self) -> None:
        """As Ctrl-C in a terminal: a training saves and can go on."""
        if self.run.going:
            with suppress(ProcessLookupError):
                os.killpg(self.run.process.pid, signal.SIGINT)

    def close(self) -> None:
        """Stop the command, and wait until it has saved."""
        self.stop()
        if self.run.going:
            try:
                self.run.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.run.process.pid, signal.SIGKILL)

    def report(self) -> Path | None:
        """The newest report of the command at hand, by its path in the folder."""
        if not self.run.report:
            return None
        with suppress(BadInput, OSError):
            place = inside(self.run.report, self.folder, "output").relative_to(os.path.abspath(self.folder))
            made = [(file.stat().st_mtime, file) for file in self.folder.glob(str(place))]
            if made and max(made)[0] >= self.run.began - 1:
                return max(made)[1].relative_to(self.folder)
        return None

    def losses(self) -> list[tuple[int, float, str]]:
        """Of the training at hand: step, loss, and of which rows."""
        if not self.run.output:
            return []
        with suppress(BadInput, OSError, ValueError):  # also a line that is damaged
            text = read_bounded(inside(self.run.output, self.folder, "output_dir") / "log.jsonl").decode()
            rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            found = {"loss": "training", "eval_loss": "held-out rows"}
            return [(row["step"], row[key], name) for row in rows for key, name in found.items() if key in row]
        return []
