"""What every verb shares: one-line errors, exit codes 0/1/2, and output folders that appear whole or not at all."""

import argparse
import errno
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.environments import leave_secrets
from llava_mistral.ground.escaping import terminal
from llava_mistral.ground.hub_access import unreachable
from llava_mistral.ground.output_folders import check_output_folder, record_files
from llava_mistral.ground.whole_file import whole_folder_at

__all__ = ["VerbParser", "check_output_folder", "run_verb", "whole_folder"]
REMEDIES = {
    number: remedy
    for remedy, numbers in {
        "get the right to write there or name another place": (errno.EROFS, errno.EACCES, errno.EPERM),
        "allow more open files (`ulimit -n`)": (errno.EMFILE, errno.ENFILE),
        "free the space it needs there": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free memory": (errno.ENOMEM,),
        "correct the path": (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        "start the server that should answer there or correct its address": (errno.ECONNREFUSED,),
        "wait for the network": (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET),
        "name another port": (errno.EADDRINUSE, errno.EADDRNOTAVAIL),
    }.items()
    for number in numbers
}
ALONE = 20  # seconds after which a process of several must have met its fault alone


class _Help(argparse.RawDescriptionHelpFormatter):
    """Marks what is required, and shows the defaults that say something."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 119))

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        one_of = [group for group in groups if group.required]
        chosen = [action for group in one_of for action in group._group_actions]
        needed = [action for action in actions if action.required or action in chosen or not action.option_strings]
        super().add_usage(usage, needed, one_of, prefix)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        silent = (None, False, argparse.SUPPRESS)
        shown = action.option_strings and not any(action.default is one for one in silent) and action.default != []
        return f"{text} (default: %(default)s)" if shown and "default" not in text else text


class VerbParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that ends in the remedy, and that knows `--verbose`.

    Args:
        about: a verb's docstring: its first line describes the verb, its lines that begin with a command are examples.
    """

    def __init__(self, *args, about: str | None = None, **kwargs):
        kwargs |= {"description": about.splitlines()[0], "epilog": examples(about)} if about else {}
        super().__init__(*args, allow_abbrev=False, add_help=False, formatter_class=_Help, **kwargs)
        self.complete, self.below = False, None

    def finish(self) -> None:
        """Add what a verb always takes, once, after its own arguments."""
        if not self.complete:
            self.complete = True
            always = self.add_argument_group("always")
            always.add_argument("-h", "--help", action="help", help="show this and leave")
            always.add_argument("--verbose", action="store_true", help="show the traceback of an error")

    def parse_args(self, args=None, namespace=None):
        """As the library's; a flag that does not exist is refused before what is missing, with the nearest one."""
        known = self.flags()
        for word in sys.argv[1:] if args is None else args:
            if word == "--":  # what follows are values
                break
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known and " " not in word:  # the library takes words for a value
                nearest = get_close_matches(flag, known, 1, 0)[0]
                self.exit(2, f"{self.prog}: there is no flag {ascii(flag)[1:-1][:80]}; did you mean {nearest}?\n")
        return super().parse_args(args, namespace)

    def add_subparsers(self, **kwargs):
        """As the library's."""
        self.below = super().add_subparsers(**kwargs)
        return self.below

    def flags(self) -> list[str]:
        """Every flag that the help names, that of subcommands included."""
        pages = [self, *(self.below.choices.values() if self.below else ())]
        return sorted(set(re.findall(r"--\w[\w-]*", "".join(page.format_help() for page in pages))))

    def parse_known_args(self, *args, **kwargs):
        """As the library's."""
        self.finish()
        return super().parse_known_args(*args, **kwargs)

    def format_help(self) -> str:
        """As the library's; the usage names what is required alone."""
        self.finish()
        usage, blank, rest = super().format_help().partition("\n\n")
        return usage + " [options]" * (not self.usage) + blank + rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; run `{self.prog} --help` for the arguments\n")


def examples(about: str) -> str | None:
    """The commands of a docstring, each with the lines that it goes on with after a backslash."""
    lines, goes_on = [], False
    for line in map(str.strip, about.splitlines()):
        if goes_on or line.startswith("llava-mistral "):
            lines.append(f"  {'    ' * goes_on}{line}")
            goes_on = line.endswith("\\")
    return "\n".join(["examples:", *lines]) if lines else None


def run_verb(main: Callable[[], int | None], *, keeps_secrets: bool = False) -> NoReturn:
    """Run a verb's `main` and exit: 0 done, 1 failed, 2 bad usage, 130 interrupted.

    `BadInput` becomes one line and exit code 2; anything else is a fault of ours (or of the machine: a full disk, no
    rights) and becomes one line and exit code 1. `--verbose` adds the traceback to either.

    Args:
        keeps_secrets: the verb runs foreign code in processes of their own alone, and needs the token itself.
    """
    # Pillow on odd metadata, and on sizes that `ground/pictures.py` bounds more strictly. For the whole process, which
    # is the verb's: `catch_warnings` is not safe among threads.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", "Image size .* exceeds limit", RuntimeWarning)
    path = Path(sys.argv[0])
    name = f"llava-mistral {path.stem}" if path.parent.name == "commands" else path.name
    out, sys.stdout, err, sys.stderr = sys.stdout, _Escaped(sys.stdout), sys.stderr, _EscapedBars(sys.stderr)
    try:
        if not keeps_secrets:
            leave_secrets(sys.argv[1:])
        code = main() or 0
        if nobody := unreachable():
            print(f"{name}: {nobody}; went on with what is in the cache", file=sys.stderr)
    except BadInput as error:
        code = _report(name, _with_hub(str(error)), 2)
    except KeyboardInterrupt:
        code = _report(name, "interrupted; run the same command again to go on", 130)
    except Exception as error:
        code = _report(name, _with_hub(_said(error)), 1)
    sys.stdout.flush()
    sys.stdout, sys.stderr = out, err
    sys.exit(code)


def _with_hub(line: str) -> str:
    nobody = unreachable()
    return f"{line} ({nobody})" if nobody and nobody not in line else line


class _Escaped:
    """Standard output that escapes control characters in text from files and models."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(terminal(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _EscapedBars(_Escaped):
    """Standard error, on which bars of progress go back to the start of their line, and up to the bar above."""

    def write(self, text: str) -> int:
        before, words, after = re.fullmatch(r"((?:\r|\n|\x1b\[A)*)(.*?)(\r*)", text, re.DOTALL).groups()
        if words and "\x1b" in before:  # a bar moves up by itself, and says nothing with it
            before, words = "", before + words
        self._stream.write(before + terminal(words) + after)
        return len(text)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in REMEDIES:  # libraries raise OSError for much else
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {REMEDIES[error.errno]} and run the same command again"
    message = " ".join(str(error).split()) or "no message"
    for number, remedy in REMEDIES.items():  # torch and safetensors raise errors of their own, in the system's words
        if os.strerror(number) in message:
            return f"{message}; {remedy} and run the same command again"
    return f"{type(error).__name__}: {message}; run again with --verbose for the traceback"


def _report(name: str, line: str, code: int) -> int:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # What all processes of a launch meet the first one says, and the launcher ends the others; what only this one
        # met, it says when nobody did.
        if code > 2:
            return code  # stopped from outside, as all are
        time.sleep(ALONE)
    if "--verbose" in sys.argv[1:]:
        print(traceback.format_exc(), file=sys.stderr)
    elif code == 1:
        sys.unraisablehook = lambda _: None  # what a library's half-made objects say when they go
    print(f"{name}: {line}", file=sys.stderr)
    return code


@contextmanager
def whole_folder(path: str | Path, made_by: str) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well, and vanishes otherwise.

    A reader of `path` sees the old folder or the new one, never a mixture. `made_by` is the file that marks a folder
    as an earlier output of the same verb, which may be replaced (`check_output_folder`).

    Raises:
        BadInput: the folder holds something else, at the beginning or when it is to be replaced, hours later.
    """
    with whole_folder_at(check_output_folder(path, made_by)) as folder:
        yield folder
        record_files(folder)
        check_output_folder(path, made_by)
