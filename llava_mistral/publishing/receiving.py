"""The clean process of `verification.py`: load the published files and compare them with the local ones.

It runs as a script, where no project is on the path, and therefore imports nothing of this project; but for an
adapter's base, which is loaded with this project's classes rather than with the base's own code.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = "Which is heavier, a kilogram of feathers or a kilogram of iron?"
TIMEOUT = 30  # seconds without a byte; the client waits for ever for the list of files (measured)
PATIENCE = 20  # seconds a download may go on failing, beside the client's own tries, which take 23 s after a 429


def _download(repo_id: str, commit: str, files: dict[str, str], repo_type: str) -> Path:
    """Fetch what was published into the (empty) cache, compare it file by file and return its folder."""
    from huggingface_hub import snapshot_download

    _set_timeouts()
    failing_since = None
    while True:  # the client does not try a download again after a 5xx
        try:
            folder = snapshot_download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=list(files))
            break
        except Exception as error:
            failing_since = failing_since or time.monotonic()
            if (failing := time.monotonic() - failing_since) > PATIENCE:
                problem = " ".join(str(error).split())
                sys.exit(f"{repo_id} at {commit} was published but cannot be received now ({problem})")
            time.sleep(min(1 + failing, 8))  # 1, 2, 4, 8, 8 … seconds
    for path, expected in files.items():
        place = Path(folder) / path
        if not place.is_file():
            sys.exit(f"{path} is not in {repo_id} at {commit}")
        with place.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                sys.exit(f"{path} came back from {repo_id} at {commit} with other bytes than were sent")
    return Path(folder)


def _set_timeouts() -> None:
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    limits = httpx2.Timeout(TIMEOUT, connect=min(TIMEOUT, 10)).as_dict()

    def limit(request) -> None:
        timeout = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {kind: timeout.get(kind) or seconds for kind, seconds in limits.items()}

    def client():
        http_client = default_client_factory()
        http_client.event_hooks = {**http_client.event_hooks, "request": [*http_client.event_hooks["request"], limit]}
        return http_client

    set_client_factory(client)


def _receive(task: dict) -> dict:
    """Fetch what the next process loads: the published files, and an adapter's base at its commit."""
    from huggingface_hub import snapshot_download

    places = {"folder": str(_download(task["repo_id"], task["commit"], task["files"], "model"))}
    if task["base"]:
        base, revision = task["base"]
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", *(["*.py"] if task["trust"] else [])]
        places["base"] = snapshot_download(base, revision=revision, allow_patterns=wanted)
    return places


def _use_ours(task: dict) -> None:
    """Let an adapter's base be loaded with this project's classes: no code of the base is run."""
    if not task["trust"]:
        sys.path.insert(0, task["home"])
        from llava_mistral.ground.foreign_code import register_ours

        register_ours()


def _load(place: str, with_head: bool = True, trust: bool = True, **pinned):
    """A model in evaluation mode, whole: a missing, surplus, misshapen or non-finite weight ends the process.

    Without its head (`AutoModel`) the weights of the head are left over, which is right.
    """
    from transformers import AutoModel, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if with_head else AutoModel
    model, info = auto.from_pretrained(
        place, dtype="auto", output_loading_info=True, trust_remote_code=trust, **pinned
    )
    for kind in ("missing_keys", "mismatched_keys", "error_msgs", *(["unexpected_keys"] if with_head else [])):
        if found := sorted(map(str, info.get(kind) or [])):
            what = f"{kind.replace('_', ' ')} {', '.join(found[:3])} ({len(found)})"
            sys.exit(f"the weights do not fit the model: {what}")
    _check_finite(model.state_dict())
    return model.eval()


def _load_adapter(base, place: str):
    """The base with the adapter on it, whole: PEFT itself only warns of a weight that is missing or left over."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    saved = load_peft_weights(place, device="cpu")
    _check_finite(saved)
    model = PeftModel.from_pretrained(base, place)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    for kind, found in (("missing", expected - saved.keys()), ("unexpected", saved.keys() - expected)):
        if found := sorted(found):
            sys.exit(f"the adapter does not fit its base: {kind} keys {', '.join(found[:3])} ({len(found)})")
    return model.eval()


def _check_finite(weights: dict) -> None:
    if bad := [name for name, values in weights.items() if values.is_floating_point() and not values.isfinite().all()]:
        sys.exit(f"the weights are not finite: {bad[0]}")


def _picture():
    """A picture that is the same everywhere: two colour ramps."""
    from PIL import Image

    ramp = Image.linear_gradient("L").resize((96, 64))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), Image.new("L", (96, 64), 128)))


def _logits(model, place: str, has_processor: bool, trust: bool = True, **pinned) -> dict:
    """The logits of a text-only and, with a processor, of an image prompt, as float32 arrays."""
    import torch
    from transformers import AutoProcessor, AutoTokenizer

    load = AutoProcessor if has_processor else AutoTokenizer
    words = load.from_pretrained(place, trust_remote_code=trust, **pinned)
    prompts = {"text": words(text=TEXT, return_tensors="pt")}
    if has_processor and getattr(words, "image_token", None):
        prompts["image"] = words(images=_picture(), text=f"{words.image_token}\n{TEXT}", return_tensors="pt")
    with torch.no_grad():
        return {kind: model(**inputs.to(model.device)).logits.float().numpy() for kind, inputs in prompts.items()}


def _rehearse(task: dict) -> dict:
    import numpy as np
    from safetensors.torch import load_file

    folder = Path(task["folder"])
    adapter = (folder / "adapter_config.json").is_file()
    if adapter and task["base"] is None:
        _check_finite(load_file(folder / "adapter_model.safetensors"))
        return {"class": "adapter", "prompts": []}
    if adapter:
        _use_ours(task)
        model = _load_adapter(_load(task["base"], trust=False), task["folder"])
        logits = _adapter_logits(model, task["folder"], task["base"], trust=False)
    else:
        model = _load(task["folder"])
        logits = _logits(model, task["folder"], (folder / "processor_config.json").is_file())
    np.savez(task["logits"], **logits)
    return {"class": "adapter" if adapter else type(model).__name__, "prompts": list(logits)}


def _model(task: dict) -> dict:
    model = _load(task["repo_id"], revision=task["commit"])
    has_processor = "processor_config.json" in task["files"]
    here = _logits(model, task["repo_id"], has_processor, revision=task["commit"])
    _compare(task["logits"], here, "the published model's logits differ from the folder's")
    del model
    _load(task["repo_id"], with_head=False, revision=task["commit"])
    chats = has_processor and "chat_template.jinja" in task["files"]
    answer = _answer(task["repo_id"], task["commit"], task["ask"]) if chats else None
    return {"files": len(task["files"]), "prompts": list(here), "answer": answer}


def _compare(expected: dict | str, here: dict, problem: str) -> None:
    """End the process where logits differ in a bit from those sent, which may be in a file of `_rehearse`."""
    import numpy as np

    for kind, logits in (np.load(expected) if isinstance(expected, str) else expected).items():
        if logits.shape != here[kind].shape or logits.tobytes() != here[kind].tobytes():
            sys.exit(f"{problem} on the {kind} prompt")


def _adapter(task: dict) -> dict:
    _use_ours(task)
    adapter, base, trust = task["received"]["folder"], task["received"]["base"], task["trust"]
    here = _adapter_logits(_load_adapter(_load(base, trust=trust), adapter), adapter, base, trust)
    if Path(task["logits"]).is_file():
        problem = f"{task['base'][0]} with the published adapter answers differently from the folder"
        _compare(task["logits"], here, problem)
    else:
        expected = _adapter_logits(_load_adapter(_load(base, trust=trust), task["folder"]), adapter, base, trust)
        _compare(expected, here, "the published adapter's logits differ from the folder's")
    return {"files": len(task["files"]), "prompts": list(here)}


def _adapter_logits(model, place: str, base: str, trust: bool) -> dict:
    """An adapter's logits, with the processor or tokenizer beside it, or else with its base's."""
    files = os.listdir(place)
    if "processor_config.json" in files or "tokenizer_config.json" in files:
        return _logits(model, place, "processor_config.json" in files, trust)
    return _logits(model, base, hasattr(model.config, "vision_config"), trust)


def _answer(repo_id: str, commit: str, ask: list[str] | None) -> str:
    from PIL import Image
    from transformers import pipeline

    chat = pipeline("image-text-to-text", model=repo_id, revision=commit, trust_remote_code=True)
    picture, text = (Image.open(ask[0]), ask[1]) if ask else (_picture(), "What is in this picture?")
    question = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    answers = chat(text=[{"role": "user", "content": question}], max_new_tokens=8, return_full_text=False)
    return answers[0]["generated_text"]


def _row_sums(rows) -> list[str]:
    """One sha256 per row, over its values and the size, mode and pixels of its pictures."""
    return [hashlib.sha256(json.dumps(_canonical(row), sort_keys=True).encode()).hexdigest() for row in rows]


def _canonical(value):
    if hasattr(value, "tobytes") and hasattr(value, "mode"):
        if value.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):  # as publishing/parquet.py stores it
            value = value.convert("RGBA" if "a" in value.mode else "RGB")
        pixels = value.convert("RGBA") if value.mode == "P" else value
        return [value.mode, value.size, hashlib.sha256(pixels.tobytes()).hexdigest()]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _dataset(task: dict) -> dict:
    from datasets import config, load_dataset

    config.USE_PARQUET_EXPORT = False  # it would take the token to another host, datasets-server.…
    _download(task["repo_id"], task["commit"], task["files"], "dataset")
    counts = {}
    for split, sources in task["splits"].items():
        here = load_dataset("parquet", data_files={split: sources}, split=split)
        left = here.column_names
        for name, columns in task["configs"].items():
            pinned = {"path": task["repo_id"], "name": name, "split": split, "revision": task["commit"]}
            there = {"loaded": load_dataset(**pinned), "streamed": load_dataset(**pinned, streaming=True)}
            if [*(found := there["loaded"].features).items()] != [*here.select_columns(columns).features.items()]:
                sys.exit(f"the published columns of {name} are {[*found]}, the folder's are {columns}")
            new, left = [name for name in columns if name in left], [name for name in left if name not in columns]
            sums = _row_sums(here.select_columns(new))
            for how, rows in there.items():
                if (received := _row_sums(rows.select_columns(new))) != sums:
                    pairs = enumerate(zip(sums, received, strict=False))
                    where = next((i for i, (ours, theirs) in pairs if ours != theirs), None)
                    count = f"{len(received)} rows instead of {len(sums)}"
                    what = count if where is None else f"row {where} differs"
                    sys.exit(f"the published {split} split is not the folder's when {how}: {what}")
        counts[split] = len(here)
    return {"files": len(task["files"]), "rows": counts}


def _space(task: dict) -> dict:
    folder = _download(task["repo_id"], task["commit"], task["files"], "space")
    with tempfile.TemporaryDirectory() as plain:  # Python looks for modules where a link of the cache leads to
        shutil.copytree(folder, plain, dirs_exist_ok=True)
        # Without site-packages: a project installed here would stand in for a file that was not sent along.
        command = [sys.executable, "-S", Path(plain) / "app.py", "--help"]
        started = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_TOKEN": ""})
    if started.returncode:
        sys.exit(f"the published app.py does not start: {(started.stderr.strip().splitlines() or ['no message'])[-1]}")
    return {"files": len(task["files"])}


def _lack_of_room(error: BaseException | None) -> str | None:
    """`datasets` hides a full disk behind three errors of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
            problem = f"{tempfile.gettempdir()} has no room to receive it and compare: {os.strerror(error.errno)}"
            return f"{problem}; make room there, or set TMPDIR, and run the same command again"
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    task = json.load(sys.stdin)
    steps = {step.__name__: step for step in (_receive, _rehearse, _model, _adapter, _dataset, _space)}
    try:
        print(json.dumps(steps[f"_{task['do']}"](task)))
    except Exception as error:
        if not (problem := _lack_of_room(error)):
            raise
        sys.exit(problem)
