"""Requests that begin alike in one row of tokens, and rows filled up with others.

What the sequences of a group have in common stands in a row once, behind it what follows in each:
its branches. A token sees the common beginning and the tokens before it on its own branch, and has
the position that it has in its sequence, so every log-likelihood is that of the sequence read
alone. Several groups share a row, none of which sees another.
"""

import bisect
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jprune.evaluate.encoding import Request

# Longer groups are divided: what attention keeps grows with the square of a row.
MAX_ROW = 2048


@dataclasses.dataclass(frozen=True)
class Group:
    """The tokens of several requests that share their beginning.

    Attributes:
      ids: the common tokens, then those of each branch.
      positions: of each token in its sequence.
      branches: of each token, 0 for the common ones.
      where: the token that predicts each target.
      targets: the ids predicted: the continuations.
      requests: the number of the request that each target belongs to.
    """

    ids: Int[np.ndarray, " tokens"]
    positions: Int[np.ndarray, " tokens"]
    branches: Int[np.ndarray, " tokens"]
    where: Int[np.ndarray, " targets"]
    targets: Int[np.ndarray, " targets"]
    requests: Int[np.ndarray, " targets"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of one length.

    Attributes:
      tokens: id, position, segment and branch of each token; segment 0 is filling.
      where: the token of the row that predicts each target; filled up behind with 0.
      targets: the ids predicted; filled up likewise.
      requests: the number of the request of each target; -1 for filling.
    """

    tokens: Int[np.ndarray, "rows 4 length"]
    where: Int[np.ndarray, "rows targets"]
    targets: Int[np.ndarray, "rows targets"]
    requests: Int[np.ndarray, "rows targets"]


def group(requests: Mapping[int, Request]) -> Group:
    """The group of requests, by their numbers."""
    # The last token predicts nothing that is asked for.
    sequences = {number: (*r.context, *r.continuation) for number, r in requests.items()}
    inputs = {number: ids[:-1] for number, ids in sequences.items()}
    common = os.path.commonprefix(list(inputs.values()))
    ids, positions = list(common), list(range(len(common)))
    branches = [0] * len(common)
    where: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for branch, (number, own) in enumerate(inputs.items(), 1):
        start = len(requests[number].context)
        # A token of the sequence is where it is counted from here, or among the common ones.
        shift = len(ids) - len(common)
        predicted = range(start, len(own) + 1)
        where += [j - 1 if j - 1 < len(common) else j - 1 + shift for j in predicted]
        targets += sequences[number][start:]
        owners += [number] * len(predicted)
        ids += own[len(common) :]
        positions += range(len(common), len(own))
        branches += [branch] * (len(own) - len(common))
    arrays = (ids, positions, branches, where, targets, owners)
    return Group(*(np.asarray(numbers, np.int32) for numbers in arrays))


def groups(requests: Sequence[Request], keys: Sequence[int]) -> list[Group]:
    """The groups of requests with equal keys; none longer than `MAX_ROW` but for single requests.

    Requests without a continuation are in none.
    """
    members: dict[int, dict[int, Request]] = {}
    for number, (request, key) in enumerate(zip(requests, keys, strict=True)):
        if request.continuation:
            members.setdefault(key, {})[number] = request
    return [part for found in members.values() for part in _divided(found)]


def _divided(requests: dict[int, Request]) -> list[Group]:
    whole = group(requests)
    if len(whole.ids) <= MAX_ROW or len(requests) == 1:
        return [whole]
    numbers = list(requests)
    half = len(numbers) // 2
    parts = (numbers[:half], numbers[half:])
    return [one for part in parts for one in _divided({n: requests[n] for n in part})]


def pack(found: Sequence[Group], lengths: Sequence[int]) -> list[Rows]:
    """Groups in rows, each as long as one of `lengths`, which ascend and suffice for the longest.

    The longest groups open rows, shorter ones go where least room is left over.
    """
    rows: list[tuple[int, list[Group]]] = []
    room: list[tuple[int, int]] = []  # of each row, in order of room
    for one in sorted(found, key=lambda one: len(one.ids), reverse=True):
        size = len(one.ids)
        at = bisect.bisect_left(room, (size, 0))
        if at == len(room):
            rows.append((lengths[bisect.bisect_left(lengths, size)], []))
            left, row = rows[-1][0], len(rows) - 1
        else:
            left, row = room.pop(at)
        rows[row][1].append(one)
        bisect.insort(room, (left - size, row))
    by_length: dict[int, list[list[Group]]] = {}
    for length, content in rows:
        by_length.setdefault(length, []).append(content)
    return [_rows(contents, length) for length, contents in by_length.items()]


def _rows(contents: Sequence[Sequence[Group]], length: int) -> Rows:
    # Rows with equally many targets go together, so that a batch has little filling.
    contents = sorted(contents, key=lambda row: sum(len(one.targets) for one in row))
    most = sum(len(one.targets) for one in contents[-1])
    tokens = np.zeros((len(contents), 4, length), np.int32)
    where, targets = (np.zeros((len(contents), most), np.int32) for _ in range(2))
    requests = np.full((len(contents), most), -1, np.int32)
    for row, content in enumerate(contents):
        first = done = 0
        for segment, one in enumerate(content, 1):
            end, asked = first + len(one.ids), done + len(one.targets)
            same = np.full_like(one.ids, segment)
            tokens[row, :, first:end] = one.ids, one.positions, same, one.branches
            where[row, done:asked] = one.where + first
            targets[row, done:asked] = one.targets
            requests[row, done:asked] = one.requests
            first, done = end, asked
    return Rows(tokens, where, targets, requests)
