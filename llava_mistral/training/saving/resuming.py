"""Choose the checkpoint to resume from: the newest whole one of the same run, or none."""

import hashlib
import platform
import shutil
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import weight_files
from llava_mistral.training.processes import is_first_process
from llava_mistral.training.recipe_keys import BESIDE_IDENTITY
from llava_mistral.training.saving.run_record import PACKAGES, data_hash
from llava_mistral.training.saving.whole_checkpoints import (
    DAMAGED,
    PARTIAL,
    checkpoints,
    fault,
    read_manifest,
)

SAMPLES, SAMPLED = 64, 1 << 14  # places of a weight file that are looked at, and bytes at each


@dataclass(frozen=True)
class RunIdentity:
    """The settings that must be equal for a run to resume from a checkpoint.

    Args:
        config: decisive key -> value, as JSON keeps it.
        data: hash of the rows and their pictures (`data_hash`).
        versions: of the code and the libraries; a change is printed, not refused.
    """

    config: dict
    data: str
    versions: dict[str, str]

    def about(self, step: int) -> dict:
        """Return the manifest entries of the checkpoint at `step` beside its files."""
        return {"step": step, **asdict(self)}


def run_identity(stage, config, rows, wording: str) -> RunIdentity:
    """Gather the identity of the run that `stage`, a `StageArguments`, and `config`, an `SFTConfig`, describe.

    That is all of both but `recipe_keys.BESIDE_IDENTITY`, with the weights and the chat template it begins with.

    Args:
        wording: the text of the chat template that the stage is worded with.

    Raises:
        BadInput: this is not the only process of a launch, and yet trains alone.
    """
    if config.world_size == 1 and not is_first_process():
        problem = "the launcher started several processes, and each of them would train alone into one folder"
        remedy = "use accelerate launch; without GPUs set ACCELERATE_USE_CPU=true"
        raise BadInput(problem, remedy=remedy, file=config.output_dir, field="output_dir")
    named = {line.name: getattr(part, line.name) for part in (config, stage) for line in fields(part) if line.init}
    values = {key: getattr(value, "value", value) for key, value in named.items() if key not in BESIDE_IDENTITY}
    values["mm_projector_lr"] = stage.projector_lr
    values["chat_template"] = _short_hash(wording.encode())
    values["base_weights"] = _base_weights(Path(stage.model_name_or_path))
    values["processes"] = config.world_size
    plain = {key: value if isinstance(value, int | float | None) else str(value) for key, value in values.items()}
    return RunIdentity(plain, data_hash(rows) if is_first_process() else "", _versions())


def _base_weights(folder: Path) -> str | None:
    """Of a local base: its record, and of its weight files the sizes and a sample of their bytes.

    Hashing all of 14 GB at every start would cost a minute; training moves every weight of a matrix.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for part in range(SAMPLES):
                file.seek(size * part // SAMPLES)
                digest.update(file.read(SAMPLED))
    record = folder / "run.json"
    digest.update(record.read_bytes() if record.is_file() else b"")
    return digest.hexdigest()[:12]


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _versions() -> dict[str, str]:
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    packages = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **packages, "training": _short_hash(code)}


def choose_checkpoint(output: str | Path, identity: RunIdentity, force: bool = False) -> str | None:
    """The newest whole checkpoint in `output` that is of the run `identity`; None when there is none.

    Damaged ones are renamed to `damaged-checkpoint-N`, so that nobody counts them; each is named with its fault.
    Nothing is renamed when the run is refused.

    Args:
        force: go on though data or configuration changed (`--force_resume`).

    Raises:
        BadInput: the newest whole checkpoint is of other data or another configuration.
    """
    if not is_first_process():
        return None
    output, faults, chosen = Path(output), {}, None
    for checkpoint in checkpoints(output):
        reason = fault(checkpoint)
        if reason is None:
            chosen = checkpoint
            break
        faults[checkpoint] = reason
    changes = _changes(chosen, identity) if chosen else []
    if changes and not force:
        raise BadInput(
            "; ".join(description for _, description in changes),
            remedy="take it back, name a new output folder, or add --force_resume",
            file=chosen,
            field=changes[0][0],
        )
    for checkpoint, reason in faults.items():
        aside = _quarantine(checkpoint)
        print(f"{checkpoint}: skipped, {reason}; it is {aside.name} until the run is finished", flush=True)
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    if chosen:
        forced = f", though {'; '.join(description for _, description in changes)}" if changes else ""
        print(f"{chosen}: going on from here{forced}{_other_versions(chosen, identity)}", flush=True)
    elif faults:
        print(f"{output}: no whole checkpoint, starting from the beginning", flush=True)
    return str(chosen) if chosen else None


def _changes(checkpoint: Path, identity: RunIdentity) -> list[tuple[str, str]]:
    """What differs between a checkpoint's run and this one: (key, clause)."""
    before = read_manifest(checkpoint)
    was, now = before["config"], identity.config  # a key that only this run has is of a later version
    changes = [
        (key, f"{key} was {was[key]} and is {now.get(key)} now") for key in sorted(was) if was[key] != now.get(key)
    ]
    if before["data"] != identity.data:
        changes.append(("dataset", f"the data was {before['data'][:12]} and is {identity.data[:12]} now"))
    return changes


def _other_versions(checkpoint: Path, identity: RunIdentity) -> str:
    was = read_manifest(checkpoint)["versions"]
    other = [f"{name} {was.get(name)}" for name, now in identity.versions.items() if was.get(name) != now]
    return f" (it was written with {', '.join(other)})" if other else ""


def _quarantine(checkpoint: Path) -> Path:
    count = len(list(checkpoint.parent.glob(f"{DAMAGED}{checkpoint.name}*")))
    aside = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}" + (f"-{count + 1}" if count else ""))
    return checkpoint.rename(aside)


def agreed(checkpoint: str | None) -> str | None:
    """The first process's choice, in every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([checkpoint])[0]
