"""Commands that write an output folder, run in forks of the warm process: to be killed, starved and run again."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.small_problems import save_problems
from tests.support.warm_process import Ended, WarmProcess

OUTPUT = object()


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file below `folder`; nothing where there is none."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Verb:
    """A command that writes `place/out`, where `before` left another output of it already."""

    warm: WarmProcess
    command: list
    place: Path
    before: Path | None = None

    @property
    def output(self) -> Path:
        return self.place / "out"

    def start(self, **options) -> Ended:
        """Run the command as `WarmProcess.run` does."""
        return self.warm.run([self.output if word is OUTPUT else word for word in self.command], self.place, **options)

    def run(self) -> Ended:
        ended = self.start()
        assert ended.code == 0, ended
        return ended

    def starts_over(self) -> None:
        """Only the older output is there."""
        for path in self.place.iterdir():
            shutil.rmtree(path)
        if self.before:
            shutil.copytree(self.before, self.output)


def make_commands(folder: Path, stage0: Path, vision: Path, text: Path) -> dict[str, tuple[list, list | None]]:
    """Name -> the command, and one whose output it takes the place of (None: it goes on with its own).

    `folder` gets 24 problems and two files of answers to them.
    """
    problems = save_problems(folder / "data")
    for name, answer in (("first", 0), ("second", 1)):
        (folder / f"{name}.json").write_text(json.dumps({"results": {str(pid): answer for pid in range(24)}}))
    to = ["--output", OUTPUT]
    build = ["-m", "llava_mistral", "build", *to, "--vision", vision, "--llm", text, "--seed"]
    prune = [
        "-m",
        "llava_mistral",
        "prune",
        *to,
        "--dataset",
        problems,
        "--method",
        "principles",
        "--llava_json",
        "--size",
    ]
    convert = ["-m", "llava_mistral", "convert", stage0, OUTPUT, "--max_shard_size", "40KB", "--to"]
    evaluate = ["-m", "llava_mistral", "evaluate", *to, "--dataset", problems, "--split", "train"]
    score, ask = [*evaluate, "--predictions"], [*evaluate, "--model", stage0, "--device", "cpu"]
    ask += ["--images", "real", "blank", "--batch_size", "8", "--max_new_tokens", "2"]
    return {
        "prune": ([*prune, "7"], [*prune, "5"]),
        "convert": ([*convert, "llava-hf"], [*convert, "original"]),
        "build": ([*build, "0"], [*build, "1"]),
        "score": ([*score, folder / "first.json"], [*score, folder / "second.json"]),
        "ask": (ask, None),
    }


def make_verb(warm: WarmProcess, commands: tuple[list, list | None], place: Path, older: Path) -> Verb:
    """The first command, in `place`, over what the second one wrote below `older`."""
    for folder in (place, older):
        folder.mkdir(exist_ok=True)
    if commands[1] is None:
        return Verb(warm, commands[0], place)
    before = Verb(warm, commands[1], older)
    before.run()
    return Verb(warm, commands[0], place, before.output)
