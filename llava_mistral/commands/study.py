"""Run a whole study, from raw data to a published model that answers: the verbs in order, from one YAML.

    llava-mistral study --config miniature/study
    llava-mistral study --config miniature/study --full

The second runs the YAML's `full` steps: every backbone, every choice of the data, several seeds, and the report.
Each step is a command that can be typed as well. A step whose command, recipes and predecessors are as they were is
not run again, so an interrupted study goes on where it stopped. A Hub of this machine's own serves the steps that
publish.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_mistral.cli import VERBS, run
from llava_mistral.ground.bad_input import BadInput, check_folders_above
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.foreign_code import FLAG
from llava_mistral.ground.recipe_files import RECIPES, read_yaml, recipe_file

KEYS = {"name", "output", "warm", "steps", "summary", "full"}
OURS = r"llava_mistral\.(miniature|evaluation)\.\w+"
WRITES = {"--output", "--output_dir", "--preview", "--embeddings", "--logging_dir"}
STEP_KEYS = {"name", "run", "makes", "for"}


@dataclass(frozen=True)
class Step:
    """One command of a study: its name, its arguments (the program first) and the folder it makes, if any."""

    name: str
    command: tuple[str, ...]
    makes: Path | None


def read_study(path: str | Path, output: str | None, *, full: bool = False) -> tuple[dict, list[Step]]:
    """Read a study's YAML; `{output}` in a command becomes the output folder.

    A step with `for: {name: [values], …}` is as many steps, one for each combination, in which `{name}` is the value.

    Args:
        full: take the `full` steps in place of `steps`; their output folder is `…-full`.

    Raises:
        BadInput: no YAML, an unknown key, a step without a command, two steps of one name.
    """
    path = recipe_file(path)
    study, key = read_yaml(path), "full" if full else "steps"
    if not isinstance(study.get(key), list):
        raise BadInput("has no list of steps", remedy="see the recipe miniature/study", file=path, field=key)
    _refuse_unknown(study, KEYS, path, None)
    study["output"] = output or str(study.get("output") or f"outputs/{Path(path).parent.name}") + "-full" * full
    steps: dict[str, Step] = {}
    for index, step in enumerate(study[key]):
        if not isinstance(step, dict) or not {"name", "run"} <= step.keys():
            raise BadInput("needs a name and a command", remedy="write name: and run:", file=path, record=index)
        _refuse_unknown(step, STEP_KEYS, path, index)
        for one in _expanded(step, study["output"]):
            _check_step(one, Path(study["output"]), path, index)
            if one.name in steps:
                remedy = "name every value of its `for`"
                raise BadInput(f"{one.name} occurs twice", remedy=remedy, file=path, record=index, field="name")
            steps[one.name] = one
    return study, list(steps.values())


def _expanded(step: dict, output: str) -> Iterator[Step]:
    choices = step.get("for") or {}
    for values in itertools.product(*choices.values()):
        named = {"output": output, **dict(zip(choices, values, strict=True))}

        def filled(text: str, named: dict = named) -> str:
            for name, value in named.items():
                text = text.replace(f"{{{name}}}", str(value))
            return text

        words = tuple(filled(word) for word in shlex.split(step["run"]))
        yield Step(filled(step["name"]), words, Path(filled(step["makes"])) if step.get("makes") else None)


def _check_step(step: Step, output: Path, path: str | Path, index: int) -> None:
    """Refuse a step that runs more than this project's own verbs, or writes and removes beside the output folder.

    Raises:
        BadInput: naming the step and the field.
    """
    place = {"file": path, "record": index}
    if not re.fullmatch(r"[\w][\w.=+-]*", step.name):
        problem = f"{step.name!r} is not a valid name for a step"
        raise BadInput(problem, remedy="use letters, digits, dots and dashes", field="name", **place)
    module = len(step.command) > 1 and step.command[0] == "-m" and re.fullmatch(OURS, step.command[1])
    if not module and (not step.command or step.command[0] not in VERBS.keys() - {"study", "hub", "chat"}):
        problem = f"runs {' '.join(step.command)[:80]!r}, which is not a step of this project"
        raise BadInput(problem, remedy="begin with a command, or with -m llava_mistral.…", field="run", **place)
    if FLAG in " ".join(step.command):
        problem = f"gives {FLAG}, by which a user vouches for a stranger's code"
        raise BadInput(problem, remedy="run that step by hand", field="run", **place)
    real = output.resolve()
    if step.makes and not (step.makes.resolve() != real and step.makes.resolve().is_relative_to(real)):
        problem = f"makes {str(step.makes)!r}, which is not below the output folder {output}"
        raise BadInput(problem, remedy="write {output}/NAME", field="makes", **place)
    words = [part for word in step.command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, word in itertools.pairwise(words):
        if flag in WRITES and not Path(word).resolve().is_relative_to(real):
            problem = f"writes to {word!r}, which is not below the output folder {output}"
            raise BadInput(problem, remedy="write {output}/NAME", field="run", **place)


def _refuse_unknown(values: dict, known: set[str], path: str | Path, record: int | None) -> None:
    for key in values:
        if key not in known:
            remedy = f"use {', '.join(sorted(known))}"
            raise BadInput("there is no such key", remedy=remedy, file=path, record=record, field=str(key))


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
        # The token goes by the environment: an argument could be read by everybody on the machine.
        environment = {**os.environ, "LOCAL_HUB_TOKEN": token}
        command = [sys.executable, "-m", "llava_mistral", "hub", "--root", str(root), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        line = self.process.stdout.readline()
        if not (found := re.search(r"http://\S+", line)):
            raise RuntimeError(f"the local Hub did not start: {line.strip() or 'it said nothing'}")
        self.url = found.group()
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
                shutil.rmtree(step.makes)
            stamp.unlink(missing_ok=True)
            if step.makes and not step.makes.exists():
                begun_file.touch()  # what stands there from now on is this step's
            print(f"\n[{number}/{total}] {step.name}\n    {typed(step.command)}", flush=True)
            begun = time.time()
            if code := runner.run(step.command):
                print(
                    f"llava-mistral study: step {step.name} failed; correct it and run the same command",
                    file=sys.stderr,
                )
                return code if code > 0 else 1
            record = {"fingerprint": stamp_of, "command": step.command, "seconds": round(time.time() - begun, 1)}
            partial = stamp.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            partial.replace(stamp)
    finally:
        hub.close()
    return 0


if __name__ == "__main__":
    run_verb(main)
