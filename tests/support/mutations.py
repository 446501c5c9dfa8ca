"""Seeded mutations of a JSON file: of its structure, of its bytes, or of both."""

import json
import random

# What is put in the place of a value: wrong types, wrong numbers, texts that mean something somewhere.
VALUES = [None, True, False, 0, -1, 1.0, 1.5, 10**30, 10**4000, -(10**18), 1e308, [], {}, [None], {"a": 1}, [[[[]]]]]
VALUES += ["", " ", "\n", "1", "-1", "x", "../..", "/etc/hostname", "red.png\x00", "\u00e9" * 300, "x" * 1_100_000]
VALUES += ["\u202e", "\ufeff", "\x00", "\u2028", "\x1b[2J", "a\u0301", "\U0001f600", "\u0661"]
VALUES += ["<image>", "<image><image>", "</s>", "NaN"]
TEXTS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"\\u0000", b"\xff"]
TEXTS += [b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"//", b"true"]
TEXTS += [b" \n" * 3000, b"[" * 3000, b'{"a":' * 3000, b"9" * 5000]


def places(value) -> list[tuple[dict | list, str | int]]:
    """Every (container, key) below a JSON value."""
    found_places = []
    for key in value if isinstance(value, dict) else range(len(value)):
        found_places.append((value, key))
        if isinstance(value[key], dict | list):
            found_places += places(value[key])
    return found_places


def change_structure(value, rng: random.Random):
    """Return a copy with one part replaced, dropped, renamed, retyped, swapped, repeated or wrapped."""
    value = json.loads(json.dumps(value))
    node, key = rng.choice(found_places := places(value))
    how = rng.randrange(8)
    if how <= 1:
        node[key] = rng.choice(VALUES)
    elif how == 2:
        del node[key]
    elif how == 3 and isinstance(node, dict):
        node[rng.choice([key.upper(), f"{key} ", key[:-1], f"{key}s", "\u0430" + key[1:], "", "answer"])] = node.pop(
            key
        )
    elif how == 4:
        node[key] = rng.choice([str, lambda part: [part], lambda part: {"value": part}, json.dumps])(node[key])
    elif how == 5:
        other, place = rng.choice(found_places)
        node[key], other[place] = json.loads(json.dumps([other[place], node[key]]))
    elif how == 6 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), json.loads(json.dumps(node[key])))
    else:
        for _ in range(rng.choice([1, 3, 400])):
            node[key] = [node[key]]
    return value


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return a copy with a bit flipped, a span dropped, repeated or copied, a text put in, or in another coding."""
    data = bytearray(data)
    at, length = rng.randrange(len(data)), rng.choice([1, 2, 8, 60])
    how = rng.randrange(7)
    if how == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[at : at + length]
    elif how == 2:
        data[at:at] = data[at : at + length]
    elif how == 3:
        there = rng.randrange(len(data))
        data[there : there + length] = data[at : at + length]
    elif how == 4:
        data[at : at + rng.randrange(3)] = rng.choice(TEXTS)
    elif how == 5:
        data[at] = rng.randrange(256)
    elif rng.random() < 0.2:
        data = bytearray(
            data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-8-sig", "latin-1"]), "replace")
        )
    return bytes(data)


def mutated(whole, rng: random.Random) -> bytes:
    value = whole
    changes = rng.choice([(1, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1)])
    for _ in range(changes[0]):
        value = change_structure(value, rng) if value else value
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1])).encode()
    for _ in range(changes[1]):
        text = change_bytes(text, rng) if text else text
    return text
