"""Whole or not at all: what a manifest notices, what rotation keeps, and a kill before every single step."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.saving.output_folder import FINISHED, LOCK, output_lock
from llava_mistral.training.saving.resuming import RunIdentity, choose_checkpoint
from llava_mistral.training.saving.run_record import complete_run, data_hash
from llava_mistral.training.saving.whole_checkpoints import (
    MANIFEST,
    PARTIAL,
    checkpoints,
    fault,
    partial_folder,
    publish_checkpoint,
    read_manifest,
    sync_folder,
)
from tests.support.warm_process import watch_folder

NAMES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sub/shard.bin")
IDENTITY = RunIdentity({"learning_rate": 0.1, "seed": 1}, "d" * 64, {"torch": "2"})


def write_checkpoint(output: Path, step: int, limit: int | None = None, names=NAMES, keep: str | None = None) -> Path:
    staging = output / PARTIAL / f"checkpoint-{step}"
    for name in names:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(bytes([step]) * 1000)
    sync_folder(staging)
    publish_checkpoint(staging, output, IDENTITY.about(step), limit, keep)
    return output / f"checkpoint-{step}"


def steps(output: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in checkpoints(output)]


def test_the_manifest_names_every_file_and_the_run(tmp_path):
    manifest = read_manifest(write_checkpoint(tmp_path, 7))
    assert manifest["files"].keys() == set(NAMES) and manifest["step"] == 7
    assert manifest["config"] == IDENTITY.config and manifest["data"] == IDENTITY.data
    assert manifest["files"]["optimizer.pt"]["size"] == 1000 and len(manifest["files"]["optimizer.pt"]["sha256"]) == 64
    assert fault(tmp_path / "checkpoint-7") is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "optimizer missing": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "scheduler missing": (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "random state missing": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "state missing": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "state empty": (lambda folder: (folder / "trainer_state.json").write_bytes(b""), "trainer_state.json has 0 bytes"),
    "optimizer empty": (lambda folder: (folder / "optimizer.pt").write_bytes(b""), "optimizer.pt has 0 bytes and had"),
    "weights cut": (lambda folder: os.truncate(folder / "model.safetensors", 500), "model.safetensors has 500 bytes"),
    "one bit of the weights": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors has changed"),
    "weights missing": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "manifest missing": (lambda folder: (folder / MANIFEST).unlink(), "MANIFEST.json is missing"),
    "manifest garbled": (lambda folder: flip(folder / MANIFEST), "MANIFEST.json is damaged"),
    "manifest cut": (lambda folder: os.truncate(folder / MANIFEST, 100), "MANIFEST.json is damaged"),
    "a file too many": (lambda folder: (folder / "model-2.safetensors").touch(), "does not belong to it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_it_taken(tmp_path, capsys, damage):
    before, newest = write_checkpoint(tmp_path, 2), write_checkpoint(tmp_path, 4)
    spoil, said = DAMAGES[damage]
    spoil(newest)
    assert choose_checkpoint(tmp_path, IDENTITY) == str(before)
    assert steps(tmp_path) == [2] and (tmp_path / "damaged-checkpoint-4").is_dir()
    skipped, going_on = capsys.readouterr().out.splitlines()
    assert said in skipped and "checkpoint-4: skipped, " in skipped and "checkpoint-2: going on" in going_on


def test_a_second_damaged_checkpoint_of_a_step_has_a_name_of_its_own(tmp_path):
    for _ in range(2):
        flip(write_checkpoint(tmp_path, 4) / "optimizer.pt")
        assert choose_checkpoint(tmp_path, IDENTITY) is None
    assert {path.name for path in tmp_path.iterdir()} == {"damaged-checkpoint-4", "damaged-checkpoint-4-2"}


@pytest.mark.parametrize("part", ["optimizer", "scheduler", "rng_state", "trainer_state"])
def test_what_was_saved_without_a_part_is_not_gone_on_with(tmp_path, capsys, part):
    """Stock transformers goes on without optimizer, scheduler or random numbers' state, and silently diverges."""
    write_checkpoint(tmp_path, 4, names=[name for name in NAMES if not name.startswith(part)])
    assert choose_checkpoint(tmp_path, IDENTITY) is None
    out = capsys.readouterr().out
    assert "it was saved without the" in out and "no whole checkpoint, starting from the beginning" in out


@pytest.mark.parametrize(
    "names",
    [
        ["global_step4/mp_rank_00_model_states.pt", "latest", "rng_state_0.pth", "trainer_state.json"],
        ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp", "scheduler.pt", *NAMES[3:5]],
        ["adapter_model.safetensors", *NAMES[1:5]],
    ],
    ids=["deepspeed", "fsdp", "lora"],
)
def test_every_engine_s_names_of_its_parts_are_known(tmp_path, names):
    assert fault(write_checkpoint(tmp_path, 4, names=names)) is None


@pytest.mark.parametrize(
    ("identity", "field", "said"),
    [
        (RunIdentity({"learning_rate": 0.2, "seed": 1}, "d" * 64, {}), "learning_rate", "was 0.1 and is 0.2 now"),
        (RunIdentity({"learning_rate": 0.1}, "d" * 64, {}), "seed", "seed was 1 and is None now"),
        (RunIdentity(IDENTITY.config, "e" * 64, {}), "dataset", "the data was dddddddddddd and is eeeeeeeeeeee now"),
    ],
)
def test_another_run_s_checkpoint_is_refused_untouched_unless_forced(tmp_path, capsys, identity, field, said):
    write_checkpoint(tmp_path, 2)
    flip(write_checkpoint(tmp_path, 4) / "optimizer.pt")
    with pytest.raises(BadInput) as refused:
        choose_checkpoint(tmp_path, identity)
    assert said in str(refused.value) and refused.value.field == field and "--force_resume" in str(refused.value)
    assert steps(tmp_path) == [4, 2] and not capsys.readouterr().out
    assert choose_checkpoint(tmp_path, identity, force=True) == str(tmp_path / "checkpoint-2")
    assert f"going on from here, though {'' if field == 'dataset' else field}" in capsys.readouterr().out


def test_other_library_versions_are_said(tmp_path, capsys):
    write_checkpoint(tmp_path, 2)
    identity = RunIdentity(IDENTITY.config, IDENTITY.data, {"torch": "3"})
    assert choose_checkpoint(tmp_path, identity) and "it was written with torch 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "left"), [(None, [8, 6, 4, 2]), (0, [8, 6, 4, 2]), (9, [8, 6, 4, 2]), (3, [8, 6, 4]), (1, [8])]
)
def test_rotation_keeps_the_newest(tmp_path, limit, left):
    for step in (2, 4, 6, 8):
        write_checkpoint(tmp_path, step, limit)
    assert steps(tmp_path) == left


def test_rotation_keeps_the_best_and_counts_no_damaged_one(tmp_path):
    best = write_checkpoint(tmp_path, 2)
    flip(write_checkpoint(tmp_path, 4) / "optimizer.pt")
    choose_checkpoint(tmp_path, IDENTITY)
    for step in (6, 8, 10):
        write_checkpoint(tmp_path, step, 2, keep=str(best))
        assert steps(tmp_path) == [step, 2]
    assert (tmp_path / "damaged-checkpoint-4").is_dir()


def killed(action, folder: Path, nth: int) -> bool:
    """Whether `action`, in a process of its own, lived to be killed at the `nth` thing it does to a file."""
    if not (child := os.fork()):
        request = {"watch": str(folder), "at": ".", "nth": nth, "signal": 9}
        watch_folder(request, os.open(os.devnull, os.O_WRONLY))
        action()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -9)
    return code == -9


def test_a_kill_at_any_moment_of_saving_leaves_the_last_checkpoint_or_the_new_one(tmp_path):
    """Before every file is opened, written, synchronised, renamed or removed."""
    found, nth, alive = [], 0, True
    while alive:
        nth += 1
        output = tmp_path / str(nth)
        write_checkpoint(output, 2)
        alive = killed(lambda output=output: write_checkpoint(output, 4, limit=1), output, nth)
        chosen = choose_checkpoint(output, IDENTITY)
        found.append(Path(chosen).name)
        assert not (output / PARTIAL).exists() and not list(output.glob("damaged-*"))
        assert chosen == str(write_checkpoint(output, int(found[-1][11:]), limit=1)), "and the next run saves again"
    assert found == sorted(found) and set(found) == {"checkpoint-2", "checkpoint-4"} and nth > 30


def test_a_kill_at_any_moment_of_finishing_ends_in_the_same_folder(tmp_path):
    nth, alive = 0, True
    while alive:
        nth += 1
        output = tmp_path / str(nth)
        write_checkpoint(output, 2)
        (output / FINISHED).mkdir()
        for name in ("config.json", "model.safetensors", "run.json"):
            (output / FINISHED / name).write_text(name)
        (output / "README.md").touch()
        alive = killed(lambda output=output: complete_run(output), output, nth)
        assert alive or (output / "run.json").exists()
        complete_run(output)
        assert {path.name: path.read_text() for path in output.iterdir()} == {
            name: name for name in ("config.json", "model.safetensors", "run.json")
        }
    assert nth > 20


def test_the_lock_dies_with_its_process(tmp_path):
    output = tmp_path / "out"

    def hold():
        with output_lock(output):
            os.kill(os.getpid(), 9)

    assert killed(hold, tmp_path / "elsewhere", 1) and (output / LOCK).exists()
    with output_lock(output), pytest.raises(BadInput, match="another process trains into this folder"):
        output_lock(output).__enter__()
    assert not output.exists(), "nothing was written, so nothing is left"


def test_ranks_of_one_launch_share_the_lock(tmp_path, monkeypatch):
    with output_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with output_lock(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_said_and_no_hindrance(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with output_lock(tmp_path):
        (tmp_path / "checkpoint").touch()
    assert "this file system has no locks" in capsys.readouterr().err


def test_what_a_library_makes_of_a_full_disk_is_said_plainly(tmp_path, monkeypatch):
    """torch raises `RuntimeError: unexpected pos 64 vs 0`."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot save: No space left on device") as error, partial_folder(tmp_path):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert error.value.errno == errno.ENOSPC and not any(tmp_path.iterdir())


def rows_of(folder: Path):
    from llava_mistral.data.conversations import read_rows

    return read_rows(folder / "rows.json")


def test_the_hash_of_the_data_follows_words_and_pictures_and_not_the_folder(tmp_path, rows_file):
    from PIL import Image

    first = data_hash(rows_of(rows_file.parent))
    moved = Path(shutil.copytree(rows_file.parent, tmp_path / "moved"))
    assert data_hash(rows_of(moved)) == first
    Image.new("RGB", (40, 24), (1, 2, 3)).save(moved / "images" / "0.png")
    changed = data_hash(rows_of(moved))
    assert changed != first
    records = json.loads((moved / "rows.json").read_text())
    records[0]["conversations"][1]["value"] = "It is nought."
    (moved / "rows.json").write_text(json.dumps(records))
    assert len({data_hash(rows_of(moved)), changed, first}) == 3


def test_many_bytes_of_pictures_are_known_by_name_and_size(tmp_path, rows_file, monkeypatch):
    monkeypatch.setattr("llava_mistral.training.saving.run_record.READ_AT_MOST", 0)
    first = data_hash(rows_of(rows_file.parent))
    moved = Path(shutil.copytree(rows_file.parent, tmp_path / "moved"))
    assert data_hash(rows_of(moved)) == first
    with (moved / "images" / "0.png").open("ab") as file:
        file.write(b"\0")
    assert data_hash(rows_of(moved)) != first


def test_pictures_kept_as_bytes_count_by_them_and_are_not_decoded():
    import datasets

    from llava_mistral.data.conversations import row_features

    def rows(content: bytes):
        turn = [[{"role": "user", "content": "?"}]]
        columns = {"id": ["0"], "images": [[{"bytes": content, "path": None}]], "prompt": turn, "completion": turn}
        return datasets.Dataset.from_dict(columns, features=row_features())

    assert data_hash(rows(b"no picture")) == data_hash(rows(b"no picture")) != data_hash(rows(b"another"))
