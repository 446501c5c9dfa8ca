"""Read record by record or whole, a file means the same: the same records, or a refusal."""

import json
import random

import pytest

from llava_mistral.data.json_records import read_records
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import read_json

RECORDS = [
    {"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": 'a\n\u00e9 \U0001f600 "]},{'}]},
    {"id": 22, "number": -1.5e3, "nested": {"a": [[], {}, None, True]}},
    {"id": "333"},
]


def streamed(path):
    return [record for record, _ in read_records(path)]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("escaped", [True, False])
def test_records_are_whole_wherever_the_chunks_end(tmp_path, monkeypatch, chunk, indent, escaped):
    monkeypatch.setattr("llava_mistral.data.json_records.CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_text(json.dumps(RECORDS, indent=indent, ensure_ascii=escaped), encoding="utf-8-sig")
    assert streamed(path) == RECORDS
    path.write_text("[1, 23 ,456]")
    assert streamed(path) == [1, 23, 456], "a number goes on in the next chunk"


def test_two_thousand_damaged_files_are_read_or_refused_as_when_read_whole(tmp_path, monkeypatch):
    rng = random.Random(2)
    whole = json.dumps(RECORDS).encode()
    path, outcomes = tmp_path / "data.json", {"read": 0, "refused": 0}
    for number in range(2000):
        monkeypatch.setattr("llava_mistral.data.json_records.CHUNK", rng.choice([1, 5, 50, 1000]))
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.4:
                data[at : at + rng.randrange(3)] = rng.choice([b"", b"{", b"]", b'"', b",", b"\\ud800", b"NaN", b" "])
            else:
                data[at] = rng.randrange(256)
        path.write_bytes(data)
        try:
            expected = read_json(path)
        except BadInput:
            expected = None
        if isinstance(expected, list):
            assert streamed(path) == expected, number
            outcomes["read"] += 1
        else:
            with pytest.raises(BadInput) as refused:
                streamed(path)
            assert "\n" not in str(refused.value)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


def test_a_fault_is_named_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_mistral.data.json_records.CHUNK", 8)
    (tmp_path / "data.json").write_text('[{"id": 1},\n\n {"id": 2},\n {"id" 3}]')
    with pytest.raises(BadInput, match="data.json: is not valid JSON at line 4: "):
        streamed(tmp_path / "data.json")


def test_a_record_without_an_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_mistral.data.json_records.CHUNK", 8)
    monkeypatch.setattr("llava_mistral.data.json_records.LONGEST_RECORD", 100)
    (tmp_path / "data.json").write_text('[{"id": 1}, {"id": "' + "x" * 10_000)
    with pytest.raises(BadInput, match="record 1: is not a complete record within 100 characters"):
        streamed(tmp_path / "data.json")
