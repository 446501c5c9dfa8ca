"""A full disk, one that is read only, too few open files: one line, the last good output, and nothing beside it."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from llava_mistral.training.saving.whole_checkpoints import MANIFEST, fault
from tests.support.hub_here import TOKEN, hub_here
from tests.support.running import run_here
from tests.support.small_problems import save_problems
from tests.support.tiny_publications import save_dataset
from tests.support.trainee import again
from tests.support.verb_outputs import Verb, contents, make_commands, make_verb

VERBS = ("ask", "prune", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convert", "build", "score")))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only an administrator can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave(room: int, disk: Path) -> Path:
    """Fill the disk but for `room` bytes; returns the file to remove."""
    filler, free = disk / ".filler", os.statvfs(disk)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    return filler


def one_line(stderr: str, code: int, cause: str) -> str:
    """The line that a verb ends with; progress bars may stand before it."""
    assert code == 1 and "Traceback" not in stderr and stderr.count("; free the space") <= 1, stderr
    last = stderr.strip().splitlines()[-1]
    assert re.match(r"llava-mistral \w+: .*" + cause + ".*; .* and run the same command again$", last), stderr
    return last


@pytest.fixture(scope="module")
def commands(tmp_path_factory, stage0, vision_folder, mistral_folder):
    return make_commands(tmp_path_factory.mktemp("problems"), stage0, vision_folder, mistral_folder)


@pytest.fixture(scope="module")
def verb_on(warm, commands, tmp_path_factory):
    """Name, folder -> the verb that writes below the folder, over an older output; and what it writes undisturbed."""
    made = {}

    def on(name: str, place: Path) -> tuple[Verb, dict[str, bytes]]:
        if name not in made:
            elsewhere = tmp_path_factory.mktemp(name)
            verb = make_verb(warm, commands[name], elsewhere / "place", elsewhere / "older")
            verb.starts_over()
            verb.run()
            made[name] = verb.before, contents(verb.output)
        before, whole = made[name]
        return Verb(warm, commands[name][0], place, before), whole

    return on


def as_it_was(verb: Verb, whole: dict[str, bytes]) -> bool:
    """Whether the older output stands alone; of answers that come one by one, those that had room do."""
    if any(path.name not in ("out", ".filler") for path in verb.place.iterdir()):
        return False
    found = contents(verb.output)
    if verb.before:
        return found == contents(verb.before)
    return all(whole[name].startswith(content) for name, content in found.items())


@pytest.mark.case("N2", "survived")
@pytest.mark.parametrize("shares", [(0, 2), pytest.param((0, 1, 2, 3), marks=pytest.mark.slow)], ids=["two", "four"])
@pytest.mark.parametrize("name", VERBS)
def test_a_disk_that_fills_is_one_line_and_the_old_output_stands(verb_on, small_disk, name, shares, record_property):
    """With room for `shares` quarters of the output."""
    verb, whole = verb_on(name, small_disk)
    needed = sum(len(content) for content in whole.values())
    for room in (share * needed // 4 for share in shares):
        verb.starts_over()
        filler = leave(room, small_disk)
        ended = verb.start()
        assert str(verb.output) in one_line(ended.stderr, ended.code, "cannot save: No space left on device")
        assert as_it_was(verb, whole)
        filler.unlink()
        verb.run()
        assert contents(verb.output) == whole
    record_property("tried", len(shares))


@pytest.mark.case("N3", "survived")
@pytest.mark.parametrize("name", VERBS)
def test_a_disk_that_is_read_only_is_one_line_and_stays_as_it_is(verb_on, small_disk, name):
    verb, whole = verb_on(name, small_disk)
    verb.starts_over()
    before = contents(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ended = verb.start()
    said = one_line(ended.stderr, ended.code, "cannot save: Read-only file system")
    assert str(verb.output) in said and "get the right to write there or name another place" in said
    assert contents(small_disk) == before
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    verb.run()
    assert contents(verb.output) == whole


@pytest.mark.case("N4", "survived")
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", VERBS)
def test_too_few_open_files_are_one_line_and_the_old_output_stands(verb_on, tmp_path, name, step, record_property):
    """From none at all to as many as it takes."""
    verb, whole = verb_on(name, tmp_path)
    refused = []
    for count in range(0, 26, step):
        verb.starts_over()
        ended = verb.start(descriptors=count)
        if ended.code == 0:
            break
        one_line(ended.stderr, ended.code, "Too many open files")
        assert as_it_was(verb, whole)
        refused.append(count)
    assert contents(verb.output) == whole and refused
    record_property("tried", len(refused))


@pytest.mark.case("N1", "survived")
@pytest.mark.parametrize("room", ["weights", "optimizer", "state", "manifest", "finish"])
def test_a_checkpoint_that_has_no_room_is_one_line_and_the_last_one_stands(interrupted, whole, small_disk, room):
    run = again(interrupted, small_disk, save_total_limit=5)
    sizes = {path.name: path.stat().st_blocks * 512 for path in (run.output / "checkpoint-9").iterdir()}
    weights, small = sizes["model.safetensors"], sizes["trainer_state.json"] + sizes[MANIFEST]
    left = {
        "weights": weights // 2,
        "optimizer": weights + sizes["optimizer.pt"] // 2,
        "state": sum(sizes.values()) - small,
        "manifest": sum(sizes.values()) - sizes[MANIFEST],
        "finish": sum(sizes.values()) + weights // 2,
    }[room]
    shutil.rmtree(run.output / ".partial")
    filler = leave(left, small_disk)
    stopped = run.start()
    one_line(stopped.stderr, stopped.code, "cannot save: No space left on device")
    newest = 12 if room == "finish" else 9
    found = sorted(path.name for path in run.output.glob("*checkpoint-*"))
    assert f"checkpoint-{newest}" in found and fault(run.output / f"checkpoint-{newest}") is None
    assert len(found) == newest // 3 - 1 and not (run.output / ".partial").exists()
    filler.unlink()
    run.run()
    assert run.result() == whole["finetune"][1]


@pytest.mark.case("N2", "survived")
@pytest.mark.parametrize("room", [0, 4096])
def test_rows_that_have_no_room_in_the_cache_are_one_line(small_disk, rows_file, tmp_path, monkeypatch, room):
    import datasets

    from llava_mistral.commands import prune as prune_dataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(small_disk / "cache"))
    arguments = ("--dataset", rows_file, "--method", "full", "--output", tmp_path / "out")
    filler = leave(room, small_disk)
    said = one_line(run_here(prune_dataset.main, *arguments, code=1).stderr, 1, "cannot save: No space left")
    assert str(small_disk / "cache") in said and not (tmp_path / "out").exists()
    assert not list(small_disk.rglob("*partial*"))
    filler.unlink()
    run_here(prune_dataset.main, *arguments)


@pytest.mark.case("N2", "survived")
def test_vectors_that_have_no_room_are_one_line(small_disk, vision_folder, tmp_path):
    """They are mapped into memory, where a full disk would be a SIGBUS."""
    from llava_mistral.commands import prune as prune_dataset

    arguments = ("--dataset", save_problems(tmp_path / "data"), "--method", "farthest", "--size", 5)
    arguments += ("--embedder", vision_folder, "--embeddings", small_disk / "v.npy", "--output", tmp_path / "out")
    filler = leave(0, small_disk)
    one_line(run_here(prune_dataset.main, *arguments, code=1).stderr, 1, "v.npy.*cannot save: No space left")
    assert [path.name for path in small_disk.iterdir()] == [".filler"] and not (tmp_path / "out").exists()
    filler.unlink()
    run_here(prune_dataset.main, *arguments)


@pytest.mark.case("N2", "survived")
def test_a_vision_cache_that_has_no_room_is_said_and_changes_no_bit(trainee, whole, small_disk):
    leave(2500, small_disk)
    run = trainee("pretrain", vision_cache=small_disk / "cache")
    ended = run.run()
    assert "no more pictures are stored (" in ended.stderr and "No space left" in ended.stderr
    assert run.result()["model.safetensors"] == whole["pretrain"][1]["model.safetensors"]
    assert not list(small_disk.rglob("*.partial"))


@pytest.mark.case("N2", "survived")
@pytest.mark.parametrize("room", [pytest.param(4096, marks=pytest.mark.slow), 60_000])
def test_a_publication_that_has_no_room_here_is_one_line_and_whole_or_absent(small_disk, tmp_path, room, monkeypatch):
    """Rows are staged before anything is sent, and received again afterwards, both in the folder for passing files."""
    from llava_mistral.commands import publish as push_to_hub

    arguments = ("dataset", save_dataset(tmp_path / "made", rows=40), "owner/rows")
    with hub_here(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
        monkeypatch.setenv("TMPDIR", str(small_disk))
        filler = leave(room, small_disk)
        stopped = run_here(push_to_hub.main, *arguments, code=1)
        one_line(stopped.stderr, 1, "No space left on device")
        assert TOKEN not in stopped.stderr + stopped.stdout
        assert [path.name for path in small_disk.iterdir()] == [".filler"]
        sent = [request["route"] for request in hub.requests if request["route"] in ("create", "put", "commit")]
        assert ("published as" in stopped.stdout) == ("commit" in sent) == bool(sent)
        filler.unlink()
        assert "verified: " in run_here(push_to_hub.main, *arguments).stdout


@pytest.mark.case("N3", "survived")
def test_training_into_a_read_only_folder_is_one_line(trainee, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run = trainee("pretrain", output_dir=small_disk / "out")
    ended = run.start()
    assert "name another place" in one_line(ended.stderr, ended.code, "Read-only file system")


@pytest.mark.case("N4", "survived")
def test_training_with_more_workers_than_open_files_is_one_line_and_goes_on_with_fewer(trainee, whole):
    run = trainee("pretrain", dataloader_num_workers=8)
    ended = run.start(descriptors=16)
    one_line(ended.stderr, ended.code, "Too many open files")
    assert not (run.output / ".partial").exists()
    run.given["dataloader_num_workers"] = 0
    run.run()
    assert run.result()["model.safetensors"] == whole["pretrain"][1]["model.safetensors"]
