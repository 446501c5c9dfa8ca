"""One decoder: 24 kinds of files and what becomes of each, in little time and memory, and pixels that agree with
what a user's loader makes of them at inference."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.pictures import PictureFolder, check_header, open_picture
from tests.support.odd_pictures import ACCEPTED, GOLDEN, PNG, REFUSED, lying, pixels
from tests.support.running import HOME, run_apart, run_here
from tests.support.tiny_components import save_rows


def case(name: str, *outcomes: str):
    """The kind as a parameter that shows a case of the catalogue."""
    return pytest.param(name, marks=[pytest.mark.case(name.split()[0], outcome) for outcome in outcomes])


def shows(outcome: str, *names: str):
    """Marks a test that shows several cases at once."""

    def mark(test):
        for case in sorted({name.split()[0] for name in names}):
            test = pytest.mark.case(case, outcome)(test)
        return test

    return mark


@pytest.fixture
def prune(tmp_path, monkeypatch):
    """Prunes three rows, of which one has the picture that `put` puts in place; keeps all."""
    from llava_mistral.commands.prune import main

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def run(put: Callable[[Path], None], *options: str, code: int = 0):
        rows = save_rows(tmp_path / f"rows{len(list(tmp_path.iterdir()))}", 3)
        (rows.parent / "images" / "1.png").unlink()
        put(rows.parent / "images" / "1.png")
        out = rows.parent / "out"
        return out, run_here(main, "--dataset", rows, "--method", "full", "--output", out, *options, code=code)

    return run


def stored(folder: Path) -> list:
    """The pictures of a pruned set, as they lie in its file."""
    from datasets import Dataset

    rows = Dataset.from_parquet(str(next((folder / "data").glob("*.parquet"))))
    return [row["images"][0] for row in rows]


def refused_in_the_verb(prune, put: Callable[[Path], None], says: str = "") -> None:
    """One line with file, record and field, and nothing written; or skipped, listed and counted."""
    out, done = prune(put, code=2)
    assert f"{out.parent / 'rows.json'}: record 1: field image: " in done.error and says in done.error
    assert not out.exists()
    out, _ = prune(put, "--on_bad_sample", "skip", "--max_bad_samples", "0.5")
    assert [str(one["record"]) for one in json.loads((out / "skipped.json").read_text())] == ["1"]
    assert len(stored(out)) == 2


def pillow(data: bytes) -> str | None:
    """What Pillow makes of a file when nobody guards it."""
    theirs = Image.open(io.BytesIO(data)).convert("RGB")
    try:
        return None if theirs.tobytes() == open_picture(data).tobytes() else "accepts, other pixels"
    except BadInput:
        return "accepts"


@pytest.mark.parametrize("kind", [case(name, "refused", "accepted") for name in REFUSED])
def test_a_hostile_file_is_refused_by_name_and_its_neighbour_accepted(kind, tmp_path, prune, by_itself):
    bad, good = REFUSED[kind]
    (tmp_path / "bad.png").write_bytes(bad)
    for source in (bad, tmp_path / "bad.png", {"bytes": bad, "path": None}):
        with pytest.raises(BadInput) as refused:
            open_picture(source, file="set", record="7")
        said = str(refused.value)
        assert said.startswith("set: record 7: field image: ") and "\n" not in said and "0x" not in said
    refused_in_the_verb(prune, lambda path: path.write_bytes(bad))
    out, _ = prune(lambda path: path.write_bytes(good))
    assert stored(out)[1].tobytes() == open_picture(good).tobytes()
    by_itself("Pillow", lambda: pillow(bad))


@shows("refused", *REFUSED)
def test_hostile_files_take_little_time_and_memory(tmp_path):
    """All of them, in a process that may hold no more than 500 MB."""
    for name, (bad, _) in REFUSED.items():
        (tmp_path / name).write_bytes(bad)
    code = """if True:
        import sys, time
        from pathlib import Path
        from llava_mistral.ground.bad_input import BadInput
        from llava_mistral.ground.pictures import open_picture
        for path in sorted(Path(sys.argv[1]).iterdir()):
            started = time.process_time()
            try:
                open_picture(path)
                print("opened", path)
            except BadInput:
                pass
            if time.process_time() - started > 1:
                print("slow", path)
        status = Path("/proc/self/status").read_text()  # ru_maxrss is the parent's where that was larger
        if int(status.partition("VmHWM:")[2].split()[0]) > 500_000:
            print("large")
        """
    assert run_apart("-c", code, tmp_path).stdout == ""


NO_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@shows("refused", "C23")
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_refused_at_once(kind, tmp_path, prune):
    NO_FILES[kind](tmp_path / "picture.png")
    with pytest.raises(BadInput, match="is not a regular file|cannot be read"):
        open_picture(tmp_path / "picture.png")
    refused_in_the_verb(prune, NO_FILES[kind])


@shows("refused", "C24")
def test_a_link_out_of_the_folder_is_refused(tmp_path, prune, by_itself):
    (tmp_path / "out.png").write_bytes(PNG)
    refused_in_the_verb(prune, lambda path: path.symlink_to(tmp_path / "out.png"), "is outside of")
    by_itself("Pillow", lambda: Image.open(tmp_path / "out.png").load() and None)


@shows("accepted", "C23", "C24")
def test_a_link_within_the_folder_and_one_to_a_file_are_followed(prune):
    def put(path: Path) -> None:
        (path.parent / "own.png").write_bytes(PNG)
        path.symlink_to("own.png")

    out, _ = prune(put)
    assert stored(out)[1].tobytes() == open_picture(PNG).tobytes()


@shows("refused", "C24")
def test_a_picture_stays_in_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.png").write_bytes(PNG)
    (tmp_path / "in" / "own.png").write_bytes(PNG)
    (tmp_path / "in" / "leads-out.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "leads-in.png").symlink_to(tmp_path / "in" / "own.png")
    os.mkfifo(tmp_path / "in" / "fifo")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for root in (tmp_path / "in", tmp_path / "root"):
        folder = PictureFolder(root)
        for name in ("own.png", "leads-in.png", "../in/own.png"):
            assert folder.find(name, file="set", record=1) == root / name
        outside = (
            "leads-out.png",
            "up/out.png",
            "../out.png",
            str(tmp_path / "out.png"),
            "own.png\0",
            "/etc/hostname",
        )
        for name in outside:
            with pytest.raises(BadInput, match="set: record 1: field image: .* is outside of"):
                folder.find(name, file="set", record=1)
        for name, said in (
            ("absent.png", "does not exist"),
            ("fifo", "not a regular file"),
            (".", "not a regular file"),
        ):
            with pytest.raises(BadInput, match=said):
                folder.find(name, file="set", record=1)


@pytest.mark.parametrize("kind", [case(name, "accepted") for name in ACCEPTED])
def test_an_odd_file_gives_the_pixels_that_inference_gives(kind, tmp_path, prune, by_itself):
    """`load_image` is what chat templates and pipelines open pictures with; the verb stores the same."""
    from transformers.image_utils import load_image

    (tmp_path / "wrong-extension.jpg").write_bytes(ACCEPTED[kind])
    picture = open_picture(tmp_path / "wrong-extension.jpg")
    assert picture.mode == "RGB" and not picture.info
    assert pixels(picture) == GOLDEN[kind]
    theirs = load_image(Image.open(io.BytesIO(ACCEPTED[kind])))
    assert (picture.tobytes() == theirs.tobytes()) == (kind != "C11 grey of 16 bits")
    out, _ = prune(lambda path: path.write_bytes(ACCEPTED[kind]))
    assert stored(out)[1].tobytes() == picture.tobytes()
    by_itself("Pillow", lambda: pillow(ACCEPTED[kind]))


@shows("accepted", "C11")
def test_grey_of_16_bits_is_scaled_not_clipped():
    assert [open_picture(ACCEPTED["C11 grey of 16 bits"]).getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 117, 255]


def stored_as(pixels, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "format", "most"),
    [
        ("uint16", "PNG", 1023),
        ("uint16", "PNG", 4095),
        ("uint16", "TIFF", 16_383),
        ("int32", "TIFF", 65_535),
        ("int32", "TIFF", 2**30 - 1),
        ("float32", "TIFF", 1),
        ("float32", "TIFF", 255),
        ("float32", "TIFF", 65_535),
    ],
)
def test_grey_of_many_bits_keeps_its_shades(kind, format, most):
    import numpy as np

    ramp = (np.linspace(0, 1, 64)[None].repeat(8, 0) * most).astype(kind)
    row = np.asarray(open_picture(stored_as(ramp, format)))[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] >= 127 and (np.diff(row) >= 0).all() and len(set(row)) > 60


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_grey_below_zero_or_that_is_no_number_is_refused(wrong):
    import numpy as np

    pixels = np.full((4, 4), 0.5, np.float32)
    assert open_picture(stored_as(pixels, "TIFF")).getpixel((0, 0)) == (128, 128, 128)
    pixels[2, 2] = wrong
    with pytest.raises(BadInput, match="field image: the picture has grey values below 0 or NaN; scale it"):
        open_picture(stored_as(pixels, "TIFF"))


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_newer_formats_are_read_where_pillow_reads_them(format):
    from PIL import features

    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}[format]):
        pytest.skip(f"this Pillow has no {format}")
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 40)).save(file, format)
    picture = open_picture(file.getvalue())
    assert picture.size == (32, 24) and all(
        abs(a - b) < 12 for a, b in zip(picture.getpixel((9, 9)), (200, 30, 40), strict=True)
    )
    with pytest.raises(BadInput, match="field image"):
        open_picture(file.getvalue()[:-200] if len(file.getvalue()) > 400 else file.getvalue()[:60])


@shows("accepted", "C16")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_comes_out_upright(orientation, prune, by_itself):
    from transformers.image_utils import load_image

    data = lying(orientation)
    picture = open_picture(data)
    assert picture.size == ((64, 48) if orientation < 5 else (48, 64))
    assert picture.tobytes() == load_image(Image.open(io.BytesIO(data))).tobytes()
    assert not picture.getexif() and not picture.info
    assert open_picture(Image.open(io.BytesIO(data))).tobytes() == picture.tobytes()
    out, _ = prune(lambda path: path.write_bytes(data))
    assert stored(out)[1].tobytes() == picture.tobytes()
    by_itself("Pillow", lambda: pillow(data))


def test_the_header_alone_tells_no_picture_and_sizes_but_not_damage():
    for kind in ("C1 empty", "C2 page", "C6 bomb", "C8 line", "C17 svg", "C18 pointer"):
        with pytest.raises(BadInput):
            check_header(REFUSED[kind][0])
    check_header(REFUSED["C3 cut"][0])


def test_pillow_is_never_told_to_make_up_what_is_missing():
    files = [path for path in HOME.rglob("*.py") if ".venv" not in path.parts and path != Path(__file__)]
    assert files and not [path for path in files if "LOAD_TRUNCATED_IMAGES" in path.read_text(encoding="utf-8")]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
