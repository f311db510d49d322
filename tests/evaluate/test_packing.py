"""Groups and rows followed by hand."""

import numpy as np

from jprune.evaluate import Request, packing
from jprune.evaluate.packing import group, groups, pack


def request(context, continuation):
    return Request(tuple(context), tuple(continuation))


def test_what_sequences_have_in_common_stands_once():
    found = group({4: request([1, 2], [3, 4, 5]), 7: request([1, 2], [3, 6]), 9: request([1], [2])})
    # They read 1 2 3 4, 1 2 3 and 1: in common is 1.
    assert found.ids.tolist() == [1, 2, 3, 4, 2, 3]
    assert found.positions.tolist() == [0, 1, 2, 3, 1, 2]
    assert found.branches.tolist() == [0, 1, 1, 1, 2, 2]
    assert found.targets.tolist() == [3, 4, 5, 3, 6, 2]
    assert found.where.tolist() == [1, 2, 3, 4, 5, 0]
    assert found.requests.tolist() == [4, 4, 4, 7, 7, 9]


def test_choices_of_one_token_share_everything():
    found = group({0: request([5, 6], [7]), 1: request([5, 6], [8])})
    assert found.ids.tolist() == [5, 6] and found.branches.tolist() == [0, 0]
    assert found.where.tolist() == [1, 1] and found.targets.tolist() == [7, 8]


def test_targets_within_what_is_in_common():
    found = group({0: request([1], [2, 3, 4]), 1: request([1], [2, 3, 5])})
    assert found.ids.tolist() == [1, 2, 3]
    assert found.where.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.targets.tolist() == [2, 3, 4, 2, 3, 5]


def test_groups_by_key_without_empty_continuations():
    asked = [request([1], [2]), request([1], []), request([1], [3]), request([1], [4])]
    found = groups(asked, [0, 0, 1, 0])
    assert [one.requests.tolist() for one in found] == [[0, 3], [2]]


def test_long_groups_are_divided(monkeypatch):
    monkeypatch.setattr(packing, "MAX_ROW", 8)
    asked = [request([1, 2, 3], [10 + i, 4, 5]) for i in range(4)]  # 3 + 2 tokens each
    found = groups(asked, [0] * 4)
    assert [one.requests.tolist() for one in found] == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3]
    assert [len(one.ids) for one in found] == [7, 7]
    (alone,) = groups([request(range(20), [3])], [0])
    assert len(alone.ids) == 20


def test_rows_are_filled_by_what_fits_best():
    sizes = [9, 6, 5, 4, 3, 2]
    found = [group({n: request(range(100 * n, 100 * n + s), [n])}) for n, s in enumerate(sizes)]
    rows = {part.tokens.shape[2]: part for part in pack(found, [8, 12])}
    # 9 and 3 fill a row of 12; 6 and 2, 5, 4 are in rows of 8.
    assert rows[12].tokens.shape == (1, 4, 12) and rows[8].tokens.shape[0] == 3
    ids, positions, segments, branches = rows[12].tokens[0]
    assert ids.tolist() == [*range(9), *range(400, 403)]
    assert positions.tolist() == [*range(9), *range(3)]
    assert segments.tolist() == [1] * 9 + [2] * 3 and not branches.any()
    assert rows[12].where.tolist() == [[8, 11]] and rows[12].targets.tolist() == [[0, 4]]
    assert rows[12].requests.tolist() == [[0, 4]]
    filling = rows[8].tokens[:, 2] == 0
    assert filling.sum() == 24 - 6 - 5 - 4 - 2
    asked = rows[8].requests
    assert sorted(asked[asked >= 0].tolist()) == [1, 2, 3, 5]
    assert np.array_equal(asked[0] < 0, [False, True])
