import pytest
import torch
from tiny_finetune import tiny_rows

from sharp_mobile.errors import SharpError
from sharp_mobile.recovery.finetune.batches import IGNORED, OrderedSequences, Sequences, collate, rows_of_windows


def test_every_row_comes_once_before_any_comes_twice() -> None:
    order = Sequences(tiny_rows(5), 99).order(12, seed=0)
    assert [sorted(order[:5]), sorted(order[5:10])] == [[0, 1, 2, 3, 4]] * 2
    assert order[:5] != order[5:10]
    assert order == Sequences(tiny_rows(5), 99).order(12, seed=0)
    assert order != Sequences(tiny_rows(5), 99).order(12, seed=1)


def test_rows_without_a_scored_token_are_left_out() -> None:
    rows = tiny_rows(3)
    rows[1]["labels"] = torch.full_like(rows[1]["labels"], IGNORED)
    rows[1]["labels"][0] = 7  # the first token is no target
    assert Sequences(rows, 99).usable == [0, 2]


def test_lists_are_rows_too_and_digests_tell_data_apart() -> None:
    rows = tiny_rows(3)
    lists = [{name: column.tolist() for name, column in row.items()} for row in rows]
    assert Sequences(lists, 99).digest == Sequences(rows, 99).digest
    assert Sequences(tiny_rows(3, seed=5), 99).digest != Sequences(rows, 99).digest
    lists[2]["labels"][-1] = IGNORED
    assert Sequences(lists, 99).digest != Sequences(rows, 99).digest


def test_padding_goes_to_the_end_and_is_not_scored() -> None:
    short, long = torch.tensor([5, 6]), torch.tensor([7, 8, 9])
    batch = collate([{"input_ids": short, "labels": short}, {"input_ids": long, "labels": long}])
    assert batch["labels"].tolist() == [[5, 6, IGNORED], [7, 8, 9]]
    assert batch["input_ids"][0, :2].tolist() == [5, 6]


def test_tokens_are_counted_over_the_run() -> None:
    data = Sequences(rows_of_windows(torch.arange(12).view(3, 4)), 99)
    assert OrderedSequences(data, data.order(7, seed=0)).tokens == 28


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "none of its 0 rows"),
        ([{"input_ids": [1, 2, 3], "labels": [IGNORED] * 3}], "none of its 1 rows"),
        ([{"input_ids": [1, 2, 3], "labels": [1, 2]}], "row 1: input_ids"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1] * 9, "labels": [1] * 9}], "row 2: its 9 tokens"),
    ],
)
def test_bad_rows_are_refused(rows: list[dict[str, list[int]]], complaint: str) -> None:
    with pytest.raises(SharpError, match=complaint):
        Sequences(rows, 8)
