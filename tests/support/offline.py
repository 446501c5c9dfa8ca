"""Nobody is asked but this machine: a guard that holds in the tests' process and in every Python they start.

A guarded interpreter is a virtual environment of its own in a temporary folder, whose `sitecustomize` installs an
audit hook: neither `-E` nor an emptied environment passes by it, and forks inherit it. Who looks up or connects to a
foreign host meets an error, and leaves a line in a file that is read after each test: swallowing the error does not
help. Connections that compiled code makes (hf_xet, gloo) raise no audit event and go unseen.
"""

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.support.offline_hook import watch

UNGUARDED = sys.executable  # for what a user asked to be fetched: `make compat`
_FOLDER = tempfile.TemporaryDirectory(prefix="offline-")
_ASKED = Path(_FOLDER.name) / "asked"


def guard() -> None:
    """Guard this process and, from now on, what it starts by `sys.executable`."""
    watch(str(_ASKED))
    sys.executable = str(_guarded_python(Path(_FOLDER.name) / "python"))


def asked() -> str:
    """Return the lines of those who asked somebody else since this was called last."""
    lines = _ASKED.read_text() if _ASKED.exists() else ""
    _ASKED.unlink(missing_ok=True)
    return lines


def _guarded_python(folder: Path) -> Path:
    """Make in `folder` an interpreter that is this one with the guard in it, and return its path."""
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    real, python = Path(sys.executable), folder / "bin" / Path(sys.executable).name
    python.symlink_to(real.resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {real.resolve().parent}\n")
    for script in real.parent.iterdir():  # a command is looked for beside its interpreter
        if script.name != python.name:
            (folder / "bin" / script.name).symlink_to(script)
    # `addsitedir` reads the .pth files that lie there, too, such as that of an editable installation.
    (packages / "packages.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    shutil.copy(Path(__file__).with_name("offline_hook.py"), packages)
    (packages / "sitecustomize.py").write_text(f"import offline_hook\noffline_hook.watch({str(_ASKED)!r})\n")
    return python
