import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.retrain.batches import Grouping, batch_indices, bucket, counted_lengths


def run(num_windows, batch_size, seed, steps):
    return np.concatenate([batch_indices(num_windows, batch_size, seed, s) for s in steps])


def test_every_epoch_has_every_window_once_in_a_new_order():
    order = run(7, 3, 0, range(14))  # 42 positions: six epochs, none ending with a batch but two
    epochs = order.reshape(6, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (6, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_order_depends_on_seed_and_step_alone():
    whole = run(11, 4, 5, range(9))
    np.testing.assert_array_equal(run(11, 4, 5, [8, 2])[4:], whole[8:12])
    np.testing.assert_array_equal(run(11, 4, 5, [8]), whole[32:])
    assert (run(11, 4, 6, range(9)) != whole).any()


def test_a_batch_may_be_larger_than_an_epoch():
    assert sorted(batch_indices(3, 9, 0, 0)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_no_windows_is_an_error():
    with pytest.raises(InputError, match="no windows"):
        batch_indices(0, 4, 0, 0)


def test_lengths_end_at_the_last_token_that_counts():
    mask = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    assert counted_lengths(mask).tolist() == [4, 1, 0, 4]
    assert counted_lengths(mask[:0]).tolist() == []


def test_buckets():
    widths = {bucket(length, 1000) for length in range(1001)}
    assert sorted(widths) == [32, 64, 96, 128, 192, 256, 384, 512, 768, 1000]
    assert [bucket(n, 1000) for n in (32, 33, 97, 128, 129)] == [32, 64, 128, 128, 192]
    assert bucket(5, 16) == 16


@pytest.mark.parametrize(("num", "size"), [(24, 4), (23, 4), (7, 4), (3, 5), (1, 4)])
def test_grouped_steps(num, size):
    lengths = np.random.default_rng(0).integers(1, 300, num)
    grouping = Grouping(lengths, 300, size, seed=3)
    steps = [grouping.step(step) for step in range(4 * num + 6)]
    stream = np.concatenate([chosen for chosen, _ in steps])
    for start in range(0, len(stream) - num, num):  # every window once an epoch
        assert sorted(stream[start : start + num]) == list(range(num))
    for chosen, width in steps:
        assert width == bucket(int(max(lengths[chosen])), 300)
    again = Grouping(lengths, 300, size, seed=3).step(5)
    np.testing.assert_array_equal(again[0], steps[5][0])
    if num > 20:
        other = Grouping(lengths, 300, size, seed=4)
        assert any((other.step(n)[0] != steps[n][0]).any() for n in range(4))


def test_grouping_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 1025, 512)
    grouping = Grouping(lengths, 1024, 8, seed=0)
    steps = [grouping.step(step) for step in range(64)]
    assert sum(width * 8 for _, width in steps) < 1.3 * lengths.sum()
    widths = [width for _, width in steps]
    assert widths != sorted(widths)  # not the short ones first
