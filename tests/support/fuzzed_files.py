"""Seeded mutations of files, and a survey: opened or refused, how fast, in how much memory."""

import json
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NUMBERS = (-1, 0, 1, 3, 1 << 31, 1 << 62, 1 << 64, 10**400, 1.5, True, None, "7", [], {})
TYPES = ("F64", "F32", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "F99", "", None, 4)


def spoilt_bytes(data: bytes, rng: random.Random, start: int = 0, end: int | None = None) -> bytes:
    """One to five bytes replaced, or pieces of up to forty cut out or doubled, between `start` and `end`."""
    data, end = bytearray(data), end or len(data)
    for _ in range(rng.randint(1, 5)):
        place, many = rng.randrange(start, max(start + 1, end)), rng.randint(1, 40)
        kind = rng.random()
        if kind < 0.15:
            del data[place : place + many]
        elif kind < 0.25:
            data[place:place] = data[place : place + many]
        elif place < len(data):
            data[place] = rng.randrange(256)
    return bytes(data)


def pictures(tries: int) -> Iterator[bytes]:
    from tests.support.odd_pictures import ACCEPTED, JPEG

    rng, seeds = random.Random(1), [JPEG, *ACCEPTED.values()]
    for number in range(tries):
        yield spoilt_bytes(seeds[number % len(seeds)], rng) or b"\0"


def weight_files(whole: bytes, tries: int) -> Iterator[bytes]:
    """Its length, the text of its header, what the header says, or its end is another."""
    rng = random.Random(2)
    length = struct.unpack("<Q", whole[:8])[0]
    text, body = whole[8 : 8 + length], whole[8 + length :]
    for _ in range(tries):
        kind = rng.random()
        if kind < 0.1:
            yield (
                struct.pack("<Q", rng.choice([0, 1, 7, length - 1, length + 8, len(whole), 1 << 40, 2**64 - 1])) + text
            )
        elif kind < 0.2:
            yield whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole + bytes(rng.randint(1, 99))
        elif kind < 0.5:
            header = spoilt_bytes(text, rng)
            yield struct.pack("<Q", len(header)) + header + body
        else:
            header = json.dumps(mutated_header(json.loads(text), rng)).encode()
            yield struct.pack("<Q", len(header)) + header + body


def mutated_header(header: dict, rng: random.Random) -> dict:
    """One entry says something else: its name, type, shape, offsets, all of it, or only the metadata."""
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry, kind = header[name], rng.randrange(8)
    if kind == 0:
        header[rng.choice(["", "model", "x" * 10_000, name.upper(), "__proto__"])] = header.pop(name)
    elif kind == 1:
        entry["dtype"] = rng.choice(TYPES)
    elif kind == 2:
        entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.randint(0, 40))]
    elif kind == 3:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
    elif kind == 4:
        entry["data_offsets"] = [edge + rng.choice([-8, -4, 4, 8, 64]) for edge in entry["data_offsets"]]
    elif kind == 5:
        header[name] = rng.choice([*NUMBERS, {"shape": [1]}, rng.choice(list(header.values()))])
    elif kind == 6:
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    else:
        header["__metadata__"] = {"format": "pt", "note": "\u00e9" * rng.randint(1, 9999)}
    return header


def survey(attempts: Iterator[bytes], attempt: Callable[[bytes], bool], intact: list[bytes]) -> None:
    """Make every attempt; print how many succeeded, the slowest's share of the time of a file, and the peak in kB.

    Args:
        intact: whole files. The time of the slowest attempt is given in multiples of the slowest of these.
    """

    def seconds(data: bytes) -> float:
        nonlocal opened
        started = time.process_time()
        opened += attempt(data)
        return time.process_time() - started

    opened = sum(map(attempt, intact))  # what is loaded once in a process
    whole, opened, tried, slowest = max(map(seconds, intact)), 0, 0, 0.0
    for tried, data in enumerate(attempts, 1):  # noqa: B007
        slowest = max(slowest, seconds(data))
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"tried": tried, "opened": opened, "slowest": slowest / whole, "peak": peak}))


def survey_pictures(tries: int) -> None:
    from llava_mistral.ground.bad_input import BadInput
    from llava_mistral.ground.pictures import open_picture
    from tests.support.odd_pictures import ACCEPTED, JPEG

    def attempt(data: bytes) -> bool:
        try:
            return open_picture(data).mode == "RGB"
        except BadInput:
            return False

    survey(pictures(tries), attempt, [JPEG, *ACCEPTED.values()])


def survey_weights(tries: int, folder: str) -> None:
    """What the verbs look at refuses no less than the class, which takes its time; what passes is opened whole."""
    from llava_mistral.ground.bad_input import BadInput
    from llava_mistral.ground.checkpoint_headers import check_files
    from modeling_llava_mistral import LlavaMistralForConditionalGeneration

    file = Path(folder) / "model.safetensors"

    def attempt(data: bytes) -> bool:
        file.write_bytes(data)
        try:
            check_files(folder)
            passed = True
        except BadInput:
            passed = False
            if random.Random(data).random() < 0.8:
                return False
        try:
            LlavaMistralForConditionalGeneration.from_pretrained(folder)
        except ValueError:
            return False
        assert passed, "the library opens what the verbs refuse"
        return True

    whole = file.read_bytes()
    survey(weight_files(whole, tries), attempt, [whole])
