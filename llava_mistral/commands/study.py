"""Run a whole study, from raw data to a published model that answers: the verbs in order, from one YAML.

    llava-mistral study --config miniature/study
    llava-mistral study --config miniature/study --full

The second runs the YAML's `full` steps: every backbone, every choice of the data, several seeds, and the report.
Each step is a command that can be typed as well. A step whose command, recipes and predecessors are as they were is
not run again, so an interrupted study goes on where it stopped. A Hub of this machine's own serves the steps that
publish.
"""

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llava_mistral.cli import VERBS, run
from llava_mistral.ground import study_files
from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.recipe_files import RECIPES
from llava_mistral.ground.study_files import Step


def read_study(path: str | Path, output: str | None, *, full: bool = False) -> tuple[dict, list[Step]]:
    """As `study_files.read_study`, with the commands of this project."""
    return study_files.read_study(path, output, VERBS, full=full)


def fingerprint(step: Step, before: str) -> str:
    """A hash of the command, of the recipes it names, and of everything that ran before it."""
    digest = hashlib.sha256(before.encode())
    for before_word, word in zip(("", *step.command), step.command, strict=False):
        digest.update(word.encode() + b"\0")
        file = RECIPES / f"{word}.yaml" if before_word == "--config" and not Path(word).is_file() else Path(word)
        if file.suffix in (".yaml", ".jinja", ".py") and file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


class Runner:
    """Runs the steps, each as its own process that sees what a typed command would see.

    With `warm`, the interpreter of a step is a fork of this one, which has imported the heavy libraries once; on two
    cores that saves about six seconds a step. Nothing has been computed before the fork, so a step starts from the
    same state.
    """

    def __init__(self, warm: bool):
        self.warm = warm and hasattr(os, "fork")
        if self.warm:
            print("importing the libraries once for all steps", flush=True)
            import datasets  # noqa: F401
            import transformers
            import trl  # noqa: F401

            for name in ("AutoModelForImageTextToText", "AutoProcessor", "CLIPModel", "MistralForCausalLM", "Trainer"):
                getattr(transformers, name)

    def run(self, command: tuple[str, ...]) -> int:
        """Run one command of the form `verb …` or `-m module …`; returns its exit code."""
        if not self.warm:
            module = () if command[0] == "-m" else ("-m", "llava_mistral")
            return subprocess.call([sys.executable, *module, *command])
        sys.stdout.flush()
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(become(command))


def typed(command: Sequence[str]) -> str:
    """The command as one types it."""
    return f"{'python' if command[0] == '-m' else 'llava-mistral'} {shlex.join(command)}"


def become(command: Sequence[str]) -> int:
    """Run `verb …` or `-m module …` as this process would have been started with it; returns the exit code."""
    import runpy

    try:
        if command[0] == "-m":
            sys.argv = list(command[1:])
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            run(command[0], command[1:])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


class LocalHubProcess:
    """A Hub on this machine for the steps that publish; its address and token are in the environment of every step."""

    def __init__(self, root: Path):
        token = f"hf_{secrets.token_hex(17)}"
        # The token is passed in the environment: every user of the machine could read an argument.
        environment = {**os.environ, "LOCAL_HUB_TOKEN": token}
        command = [sys.executable, "-m", "llava_mistral", "hub", "--root", str(root), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        line = self.process.stdout.readline()
        if not (match := re.search(r"http://\S+", line)):
            raise RuntimeError(f"the local Hub did not start: {line.strip() or 'it said nothing'}")
        self.url = match.group()
        os.environ.update(HF_ENDPOINT=self.url, HF_TOKEN=token, HF_HUB_DISABLE_TELEMETRY="1")
        os.environ.update(HF_UPDATE_DOWNLOAD_COUNTS="0", DISABLE_SAFETENSORS_CONVERSION="1")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)


def main() -> int | None:
    parser = VerbParser(prog="llava-mistral study", about=__doc__)
    parser.add_argument("--config", required=True, help="study YAML, such as miniature/study")
    parser.add_argument("--output", help="folder for everything the study makes; the YAML's by default")
    parser.add_argument("--full", action="store_true", help="run the YAML's `full` steps: the whole comparison")
    parser.add_argument("--isolated", action="store_true", help="start a new interpreter for every step")
    args = parser.parse_args()
    study, steps = read_study(args.config, args.output, full=args.full)
    output = Path(study["output"])
    check_folders_above(output / "steps", "output")
    todo = pending(steps, output)
    started = time.time()
    if todo:
        (output / "steps").mkdir(parents=True, exist_ok=True)
        if code := run_steps(study, todo, len(steps), output, args.isolated):
            return code
    else:
        print(f"{output}: every step is done; change a recipe or remove the folder to run it again")
    if study.get("summary") and not args.full:
        from llava_mistral.miniature.summary import summarise_study

        print(summarise_study(study["summary"], output))
    if todo:
        print(f"{len(todo)} steps in {time.time() - started:.0f} s")


def pending(steps: list[Step], output: Path) -> list[tuple[int, Step, str]]:
    """The steps still to run, `(number, step, fingerprint)`: the first whose stamp does not fit, and all after it."""
    before, todo = "", []
    for number, step in enumerate(steps, 1):
        before = fingerprint(step, before)
        stamp = output / "steps" / f"{step.name}.json"
        done = stamp.is_file() and json.loads(stamp.read_text())["fingerprint"] == before
        if todo or not done or (step.makes and not step.makes.exists()):
            todo.append((number, step, before))
    return todo


def core_seconds() -> float:
    """Seconds that all steps so far kept a core busy, in their own code and in the system's."""
    return sum(os.times()[2:4])


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def _remove_made(folder: Path, written: list[str] | None) -> None:
    """Remove a folder that a step made, of which `written` are the files; stamps of 0.1.0 list none (None).

    Raises:
        BadInput: there is another file among them, or it is no folder any more.
    """
    others = sorted(_files(folder) - set(written)) if written is not None else []
    if others or folder.is_symlink() or not folder.is_dir():
        problem = f"holds {others[0]}, which the step did not write" if others else "is not a folder"
        raise BadInput(problem, remedy="move it elsewhere, for the step is to run again", file=folder)
    shutil.rmtree(folder)


def run_steps(study: dict, todo: list[tuple[int, Step, str]], total: int, output: Path, isolated: bool) -> int:
    """Run what is pending; returns the exit code of the step that failed, or 0."""
    hub = LocalHubProcess(output / "hub")
    try:
        runner = Runner(study.get("warm", False) and not isolated)
        for number, step, stamp_of in todo:
            stamp, begun_file = (output / "steps" / f"{step.name}.{kind}" for kind in ("json", "begun"))
            if (
                stamp.exists() and step.makes and step.makes.exists()
            ):  # made by another command: not to be gone on with
                if not begun_file.exists():
                    problem = "was there before this study, which would replace it"
                    raise BadInput(problem, remedy="remove it yourself, or name another output", file=step.makes)
                _remove_made(step.makes, json.loads(stamp.read_text()).get("files"))
            stamp.unlink(missing_ok=True)
            if step.makes and not step.makes.exists():
                begun_file.touch()  # what stands there from now on is this step's
            print(f"\n[{number}/{total}] {step.name}\n    {typed(step.command)}", flush=True)
            begun, spent = time.time(), core_seconds()
            if code := runner.run(step.command):
                print(
                    f"llava-mistral study: step {step.name} failed; correct it and run the same command",
                    file=sys.stderr,
                )
                return code if code > 0 else 1
            record = {"fingerprint": stamp_of, "command": step.command, "seconds": round(time.time() - begun, 1)}
            record["cpu_seconds"] = round(core_seconds() - spent, 1)
            record["files"] = sorted(_files(step.makes)) if step.makes and step.makes.is_dir() else []
            partial = stamp.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(stamp)
    finally:
        hub.close()
    return 0


if __name__ == "__main__":
    run_verb(main)
