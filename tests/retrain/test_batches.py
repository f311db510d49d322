import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.retrain import batch_indices


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
