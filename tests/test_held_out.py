"""Rows that are kept out of training: the same ones in every run, and no picture on both sides."""

import datasets
import pytest

from llava_mistral.data.conversations import row_features
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.training.held_out import MOST, set_aside


def rows_of(pictures: list[str | None]) -> datasets.Dataset:
    turns = [[{"role": "user", "content": f"Question {index}?"}] for index in range(len(pictures))]
    images = [[{"path": picture, "bytes": picture.encode()}] if picture else [] for picture in pictures]
    columns = {"id": list(map(str, range(len(pictures)))), "images": images, "prompt": turns, "completion": turns}
    return datasets.Dataset.from_dict(columns, features=row_features())


def ids(rows) -> list[str]:
    return list(rows["id"])


@pytest.mark.parametrize(("amount", "count"), [(0.02, 2), (0.001, 1), (7, 7), (0.3, 30)])
def test_so_many_are_held_out_and_every_row_is_on_one_side(amount, count):
    rows = rows_of([f"{index}.png" if index % 3 else None for index in range(100)])
    kept, aside = set_aside(rows, amount, "data")
    assert len(aside) == count
    assert sorted(ids(kept) + ids(aside), key=int) == ids(rows)
    assert ids(set_aside(rows, amount, "data")[1]) == ids(aside)


def test_a_share_comes_to_no_more_than_can_be_evaluated():
    assert len(set_aside(rows_of([None] * (3 * MOST)), 0.5, "data")[1]) == MOST


def test_rows_about_one_picture_stay_together():
    rows = rows_of([f"{index // 5}.png" for index in range(100)])
    kept, aside = set_aside(rows, 2, "data")
    sides = [{int(name) // 5 for name in ids(side)} for side in (kept, aside)]
    assert len(aside) == 5 and not sides[0] & sides[1]


def test_the_order_of_the_file_decides_nothing():
    pictures = [f"{index}.png" for index in range(50)]
    first, second = (set_aside(rows_of(order), 5, "data")[1] for order in (pictures, pictures[::-1]))
    named = [sorted(picture["bytes"] for row in side.with_format("arrow")["images"].to_pylist() for picture in row)
             for side in (first, second)]  # fmt: skip
    assert named[0] == named[1]


@pytest.mark.parametrize(("pictures", "amount"), [(["a.png"] * 4, 1), (["a.png", "b.png"], 2), (["a.png"], 0.02)])
def test_something_is_left_to_train_on(pictures, amount):
    with pytest.raises(BadInput, match="leaves nothing to train on") as refused:
        set_aside(rows_of(pictures), amount, "data")
    assert refused.value.field == "held_out"
