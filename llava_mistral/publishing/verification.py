"""Verify a publication as a user receives it: each check runs in a clean process and reports back.

A clean process runs `receiving.py` as a script: no project on the path, no cache, and of our variables the Hub's
address alone, with the token only where files are fetched.
"""

import json
import os
import site
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = {
    "rehearse": "loading the staged checkpoint",
    "model": "receiving the published model",
    "adapter": "receiving the published adapter and its base",
    "dataset": "receiving the published rows",
    "space": "receiving the published page",
}
LOADS = {"rehearse", "model", "adapter"}  # these run the code of a checkpoint


class VerificationError(RuntimeError):
    """The published files, or those about to be published, differ from what they should be."""


def rehearse(folder: Path, logits: Path, base: Path | None = None) -> dict:
    """Load a staged checkpoint in a clean process as strictly as can be, before anybody else sees it.

    Every weight must be there, of the right shape and finite, and nothing left over.

    Args:
        logits: the .npz file in which the logits of a text-only and, with a processor, an image prompt are left.
        base: for an adapter, the folder of its base; without it the adapter is not loaded, and leaves no logits.

    Returns:
        {"class": class name, "prompts": ["text", "image"]}.

    Raises:
        VerificationError: naming what is wrong.
    """
    task = {"do": "rehearse", "folder": str(folder), "logits": str(logits)}
    return _in_clean_process({**task, "base": str(base.absolute()) if base else None, "trust": False})


def verify_model(
    repo_id: str, commit: str, files: dict[str, str], logits: Path, ask: tuple[str, str] | None = None
) -> dict:
    """Download a published model into an empty cache, compare every file, load it by commit and compare the logits.

    It is loaded through AutoModelForImageTextToText, AutoProcessor, AutoModel and, with a chat template, the pipeline.

    Args:
        files: path in the repository -> sha256 of what was sent.
        logits: what `rehearse` left.
        ask: a picture's path and a question about it for the pipeline; a picture and question of our own when None.

    Returns:
        {"files": number compared, "prompts": prompts whose logits are equal bit for bit, "answer": what the pipeline
        answers to the question, or None without a chat template}.
    """
    ask = ask and (str(Path(ask[0]).absolute()), ask[1])  # the clean process works elsewhere
    task = {"do": "model", "repo_id": repo_id, "commit": commit, "files": files, "ask": ask}
    return _in_clean_process({**task, "do": "receive", "base": None}, {**task, "logits": str(logits)})


def verify_adapter(
    repo_id: str,
    commit: str,
    files: dict[str, str],
    folder: Path,
    logits: Path,
    base: tuple[str, str | None],
    trust: bool = False,
) -> dict:
    """Download a published adapter, compare every file, put it onto its published base and compare the logits.

    Args:
        folder: the staged adapter, compared with on the published base where no local base left logits.
        logits: where `rehearse` left those of the local base with the adapter, if it could.
        base: the base's Hub id and revision.
        trust: whether the user has named this commit of the base as one whose code may run.

    Returns:
        {"files": number compared, "prompts": prompts whose logits are equal bit for bit}.
    """
    task = {"do": "adapter", "repo_id": repo_id, "commit": commit, "files": files, "base": base, "trust": trust}
    return _in_clean_process({**task, "do": "receive"}, {**task, "folder": str(folder), "logits": str(logits)})


def verify_dataset(
    repo_id: str, commit: str, files: dict[str, str], configs: dict[str, list[str]], splits: dict[str, list[Path]]
) -> dict:
    """Download a published set, compare every file, and compare it with the source row for row, streaming too.

    Args:
        configs: name -> its columns; together they show every column of the source.
        splits: split -> the parquet files it was made from.

    Returns:
        {"files": number compared, "rows": {split: rows equal}, "columns": [names]}.
    """
    paths = {split: [str(path.resolve()) for path in sources] for split, sources in splits.items()}
    task = {"do": "dataset", "repo_id": repo_id, "commit": commit, "files": files}
    return _in_clean_process({**task, "configs": configs, "splits": paths})


def verify_space(repo_id: str, commit: str, files: dict[str, str]) -> dict:
    """Download a published page, compare every file, and start it as far as `--help`, which needs no Gradio.

    Returns:
        {"files": number compared}.
    """
    return _in_clean_process({"do": "space", "repo_id": repo_id, "commit": commit, "files": files})


def _in_clean_process(*tasks: dict) -> dict:
    """Do the tasks one after the other, each in a process of its own, with one cache; returns what the last returns.

    What runs code that was published, or an adapter's base, has no token and no network; what fetches has them.
    """
    print(f"{STEPS[tasks[-1]['do']]} in a clean process", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="clean-") as home:
        report = {}
        for task in tasks:
            report = _run_cleanly({**task, "received": report}, home)
        return report


def _run_cleanly(task: dict, home: str) -> dict:
    from huggingface_hub import get_token

    from llava_mistral.ground.environments import without_logins

    dropped = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON", "XDG_")
    kept = {name: value for name, value in without_logins(os.environ).items() if not name.startswith(dropped)}
    # Logins lie in the home folder, and so may the libraries that pip installed for this user alone.
    kept |= {"HOME": home, "USERPROFILE": home, "PYTHONUSERBASE": site.getuserbase()}
    ours = {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_HUB_DISABLE_XET") if name in os.environ}
    ours |= {"HF_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    ours |= {"DISABLE_SAFETENSORS_CONVERSION": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if task["do"] in LOADS:
        ours["HF_HUB_OFFLINE"] = "1"
    elif token := get_token():
        ours["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("receiving.py")],
        input=json.dumps({**task, "home": str(Path(__file__).parents[2])}),
        env={**kept, **ours},
        cwd=home,
        capture_output=True,
        text=True,
    )
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode == 0 and last[0].startswith("{"):
        return json.loads(last[0])
    stderr = _without_token(done.stderr.strip())
    error = VerificationError((stderr.splitlines() or [f"the process ended with {done.returncode}"])[-1])
    error.add_note(stderr)  # shown by --verbose
    raise error


def _without_token(text: str) -> str:
    """Should a server echo it."""
    from huggingface_hub import get_token

    return text.replace(get_token() or "\0", "<token>")
