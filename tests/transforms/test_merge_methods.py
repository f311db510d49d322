"""The mathematics of merging one tensor, against NumPy and by the identities that hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.transforms import merge_methods as methods

SHAPE = (12, 9)
KEY = jax.random.key(0)
# Every method with options that scale nothing away; dare with all kept, and thinned.
EACH = {
    "linear": (methods.linear, {"weights": [3, 2, 1]}),
    "slerp": (methods.slerp, {"t": 0.3}),
    "task_arithmetic": (methods.task_arithmetic, {"factor": 0.7}),
    "ties": (methods.ties, {"density": 0.3, "factor": 0.7}),
    "dare": (methods.dare, {"density": 0.4, "key": KEY}),
    "dare_ties": (methods.dare, {"density": 0.4, "then": "ties", "key": KEY}),
    "breadcrumbs": (methods.breadcrumbs, {"density": 0.3, "gamma": 0.1}),
    "model_stock": (methods.model_stock, {}),
    "passthrough": (methods.passthrough, {}),
}
NUMBER = {"slerp": 2, "passthrough": 1}


def tensors(number=4, shape=SHAPE, seed=0, spread=0.1, dtype=np.float32):
    """A base and variants that differ a little from it."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(shape)
    parts = [0 * common, *spread * rng.standard_normal((number - 1, *shape))]
    return [(common + part).astype(dtype) for part in parts]


def whole(number=4, shape=SHAPE, seed=0, most=3):
    """Tensors of small integers: sums are exact, and there are many equals and zeros."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(-most, most + 1, (number, *shape)).astype(np.float32))


def deltas(x):
    return [t.astype(np.float64) - x[0] for t in x[1:]]


def ranks(d):
    """Places by magnitude from 0 up, among equals the later index higher."""
    order = np.argsort(np.abs(d).reshape(-1), kind="stable")
    found = np.empty(d.size, int)
    found[order] = np.arange(d.size)
    return found.reshape(d.shape)


def consensus(ds):
    """Entry by entry in plain Python."""
    total = sum(ds)
    elected = np.sign(total)
    majority = np.sign(elected.sum())
    result = np.zeros_like(total)
    for index in np.ndindex(total.shape):
        sign = elected[index] or majority
        agree = [d[index] for d in ds if d[index] * sign > 0]
        result[index] = np.mean(agree) if agree else 0.0
    return result


def ulps(found, expected):
    """The largest distance in units of the last place."""
    dtype = np.asarray(expected).dtype
    assert found.dtype == dtype
    step = jnp.finfo(dtype).eps * 2.0 ** np.floor(np.log2(np.abs(np.asarray(expected, np.float64))))
    distance = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    return (distance / step).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", EACH)
def test_equal_tensors_are_the_result(name, dtype):
    function, options = EACH[name]
    x = jnp.asarray(tensors(1)[0], dtype)
    found = jax.jit(functools.partial(function, **options))(x, [x] * NUMBER.get(name, 3))
    assert ulps(found, x) <= 1


@pytest.mark.parametrize("name", EACH)
def test_half_precision_is_rounded_once(name):
    function, options = EACH[name]
    x = [jnp.asarray(t, jnp.bfloat16) for t in tensors(1 + NUMBER.get(name, 3))]
    wide = [t.astype(jnp.float32) for t in x]
    found = function(x[0], x[1:], **options)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        found, function(wide[0], wide[1:], **options).astype(jnp.bfloat16)
    )


@pytest.mark.parametrize(
    "name", ["linear", "task_arithmetic", "ties", "breadcrumbs", "model_stock"]
)
def test_the_order_of_the_variants_does_not_matter(name):
    function, options = EACH[name]
    x = tensors()
    order = [2, 0, 1]
    moved = dict(options)
    if name == "linear":
        moved["weights"] = [options["weights"][i] for i in order]
    np.testing.assert_allclose(
        function(x[0], [x[1 + i] for i in order], **moved),
        function(x[0], x[1:], **options),
        atol=1e-6,
    )


def test_linear():
    x = tensors()[1:]
    mean = np.average(np.float64(x), axis=0, weights=[3, 2, 1])
    np.testing.assert_allclose(methods.linear(None, x, [3, 2, 1]), mean, atol=1e-6)
    np.testing.assert_allclose(methods.linear(None, x), np.mean(np.float64(x), 0), atol=1e-6)
    np.testing.assert_array_equal(methods.linear(None, x, [0, 5, 0]), x[1])
    np.testing.assert_array_equal(methods.linear(x[2], x, [0, 5, 0]), x[1])


def test_slerp():
    a, b = tensors(2, seed=1, spread=1.0)
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    angle = np.arccos(cosine)
    assert cosine < 0.9
    for t in (0.3, 0.5):
        expected = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        np.testing.assert_allclose(methods.slerp(None, [a, b], t), expected, atol=1e-5)
    np.testing.assert_array_equal(methods.slerp(None, [a, b], 0), a)
    np.testing.assert_array_equal(methods.slerp(None, [a, b], 1.0), b)


def test_slerp_keeps_the_length_of_vectors_on_a_circle():
    a, b = np.float32([3, 0, 0]), np.float32([0, 3, 0])
    found = methods.slerp(None, [a, b], 1 / 3)
    np.testing.assert_allclose(found, [3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6), 0], atol=1e-6)


@pytest.mark.parametrize("other", ["nearly equal", "opposite", "zero"])
def test_slerp_falls_back_to_the_line(other):
    (a,) = tensors(1)
    b = {"nearly equal": 2 * a + 1e-3, "opposite": -3 * a, "zero": 0 * a}[other]
    np.testing.assert_allclose(methods.slerp(None, [a, b], 0.25), 0.75 * a + 0.25 * b, atol=1e-6)
    np.testing.assert_array_equal(methods.slerp(None, [a, b], 0.0), a)
    np.testing.assert_array_equal(methods.slerp(None, [a, b], 1.0), b)


def test_the_bound_of_the_fallback():
    """At an angle a the middle is 1 / cos(a / 2) as long on the arc as on the line."""
    for cosine, is_line in ((0.9994, False), (0.9996, True), (-0.9994, False), (-0.9996, True)):
        a, b = np.float32([1, 0]), np.float32([cosine, np.sqrt(1 - cosine**2)])
        line = (a + b) / 2
        longer = np.linalg.norm(methods.slerp(None, [a, b], 0.5)) / np.linalg.norm(line)
        expected = 1 if is_line else 1 / np.cos(np.arccos(cosine) / 2)
        assert longer == pytest.approx(expected, rel=1e-5 if cosine > 0 else 1e-2)


def test_task_arithmetic():
    x = tensors()
    expected = x[0] + 0.4 * sum(deltas(x))
    np.testing.assert_allclose(methods.task_arithmetic(x[0], x[1:], 0.4), expected, atol=1e-6)
    np.testing.assert_array_equal(methods.task_arithmetic(x[0], x[1:], 0.0), x[0])
    np.testing.assert_array_equal(methods.task_arithmetic(x[0], x[1:2], 1.0), x[1])


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("shape", [SHAPE, (31,), (1, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_ties(shape, density, seed):
    for x in (whole(shape=shape, seed=seed), tensors(shape=shape, seed=seed)):
        size = x[0].size
        dropped = int(np.floor(size * round(1 - density, 12) + 1e-12))
        trimmed = [np.where(ranks(d) >= dropped, d, 0) for d in deltas(x)]
        expected = x[0] + 0.7 * consensus(trimmed)
        np.testing.assert_allclose(
            methods.ties(x[0], x[1:], density, 0.7), expected, atol=1e-5, rtol=0
        )


def test_ties_of_one_variant_with_everything_kept_is_that_variant():
    x = tensors(2)
    found = methods.ties(x[0], x[1:], 1.0, 1.0)
    # t0 + (t1 - t0) is rounded where t0 is larger.
    larger = np.maximum(np.abs(x[0]), np.abs(x[1]))
    assert (np.abs(found - x[1]) <= np.finfo(np.float32).eps * larger).all()
    np.testing.assert_array_equal(methods.ties(x[0], x[1:], 0.5, 0.0), x[0])


def test_the_elected_sign():
    zero = np.zeros((1, 5), np.float32)
    # By columns: + wins, - wins, a draw, nothing at all, a draw of three.
    one, two, three = np.float32(
        [[[1.0, -4.0, 2.0, 0.0, 1.0]], [[3.0, 1.0, -2.0, 0.0, 1.0]], [[-2.0, 2.0, 0.0, 0.0, -2.0]]]
    )
    # One + and one -: the draws have no sign, so that nothing agrees.
    found = methods.ties(zero, [one, two, three], 1.0)
    np.testing.assert_array_equal(found, [[2.0, -4.0, 0.0, 0.0, 0.0]])
    # With one more +, the draws are +.
    one[0, 3] = 8.0
    found = methods.ties(zero, [one, two, three], 1.0)
    np.testing.assert_array_equal(found, [[2.0, -4.0, 2.0, 8.0, 1.0]])


@pytest.mark.parametrize(
    ("size", "density", "kept"),
    [(10, 0.2, 2), (10, 0.25, 3), (3, 0.1, 1), (5, 1.0, 5), (10**9, 0.1, 10**8), (7, 0.7, 5)],
)
def test_kept_entries_are_counted_exactly(size, density, kept):
    assert methods.kept_count(size, density) == kept
    if size < 100:
        d = np.arange(1, size + 1, dtype=np.float32)
        found = methods.ties(0 * d, [d], density)
        np.testing.assert_array_equal(found, np.where(d > size - kept, d, 0))


def test_of_equals_the_later_are_kept():
    d = np.float32([[1, 2, -1], [-2, 1, 1]])
    np.testing.assert_array_equal(methods.ties(0 * d, [d], 0.5), [[0, 2, 0], [-2, 0, 1]])


@pytest.mark.parametrize(("density", "gamma"), [(0.3, 0.1), (0.5, 0.0), (0.9, 0.1), (0.1, 0.55)])
@pytest.mark.parametrize("shape", [SHAPE, (31,)])
def test_breadcrumbs(shape, density, gamma):
    for x in (whole(shape=shape), tensors(shape=shape)):
        size = x[0].size
        top = int(np.floor(size * gamma + 1e-9))
        kept = size - int(np.floor(size * round(1 - density, 12) + 1e-9))
        masks = []
        for d in deltas(x):
            place = ranks(d)
            masks.append((place < size - top) & (place >= size - top - kept))
            assert masks[-1].sum() == min(kept, size - top)
        total = sum(np.where(mask, d, 0) for mask, d in zip(masks, deltas(x), strict=True))
        found = methods.breadcrumbs(x[0], x[1:], density, gamma, 0.6)
        np.testing.assert_allclose(found, x[0] + 0.6 * total, atol=1e-5)


def test_model_stock():
    x = tensors(spread=0.1)
    d = np.float64([delta.reshape(-1) for delta in deltas(x)])
    units = d / np.linalg.norm(d, axis=1, keepdims=True)
    c = np.mean([units[0] @ units[1], units[0] @ units[2], units[1] @ units[2]])
    t = 3 * c / (1 + 2 * c)
    expected = t * np.mean(np.float64(x[1:]), 0) + (1 - t) * x[0]
    np.testing.assert_allclose(methods.model_stock(x[0], x[1:]), expected, atol=1e-6)


def test_model_stock_of_variants_that_are_not_trained_or_opposite():
    x = tensors(3)
    mean = (x[0] + x[1]) / 2
    np.testing.assert_allclose(methods.model_stock(x[0], [x[0], x[1]]), mean, atol=1e-6)
    # The mean is the base, wherever the infinite t goes.
    base, d = np.float32([1, 2]), np.float32([0.5, 0.25])
    np.testing.assert_array_equal(methods.model_stock(base, [base + d, base - d]), base)


def test_passthrough():
    x = tensors(2)
    np.testing.assert_array_equal(methods.passthrough(x[0], x[1:]), x[1])
    np.testing.assert_array_equal(methods.passthrough(None, x[1:], 0.5), 0.5 * x[1])


def test_dare_keeps_the_mean_and_the_share():
    base = np.ones((200, 300), np.float32)
    variant = base + 0.5
    found = np.asarray(methods.dare(base, [variant], 0.3, key=KEY)) - 1
    np.testing.assert_allclose(np.unique(found), [0, 0.5 / 0.3], rtol=1e-5)
    # Six standard errors of 60,000 draws.
    assert (found != 0).mean() == pytest.approx(0.3, abs=6 * np.sqrt(0.21 / 60000))
    assert found.mean() == pytest.approx(0.5, rel=0.05)


def test_dare_is_seeded_and_draws_for_each_variant():
    x = tensors(2)
    one = methods.dare(x[0], x[1:], 0.5, key=KEY)
    np.testing.assert_array_equal(one, methods.dare(x[0], x[1:], 0.5, key=KEY))
    assert (one != methods.dare(x[0], x[1:], 0.5, key=jax.random.key(1))).any()
    zero = np.zeros(SHAPE, np.float32)
    # 1 where only the first is kept, 2 the second, 3 both.
    both = methods.dare(zero, [zero + 0.5, zero + 1.0], 0.5, key=KEY)
    assert set(np.unique(both)) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("then", ["task_arithmetic", "ties"])
def test_dare_with_everything_kept_is_what_comes_then(then):
    x = tensors()
    found = methods.dare(x[0], x[1:], 1.0, 0.7, then, key=KEY)
    full = x[0] + 0.7 * (sum(deltas(x)) if then == "task_arithmetic" else consensus(deltas(x)))
    np.testing.assert_allclose(found, full, atol=1e-6)
