"""Sorting against numpy and lax; transport against assignment, linear programs, closed forms and brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.optimize import linear_sum_assignment, linprog
from scipy.stats import wasserstein_distance

from jaxae.losses.sliced_wasserstein import (
    generalized_sliced_wasserstein,
    max_sliced_wasserstein,
    sample_sphere,
    sliced_wasserstein,
    wasserstein_1d,
)
from jaxae.losses.sorting import argsort, sort

REPLICAS = 8


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def with_ties(seed, *shape):
    """Few values, both zeros among them, infinities and NaN of both signs."""
    rng = np.random.default_rng(seed)
    values = np.array([-np.inf, -1.5, -1.0, -0.0, 0.0, 1e-30, 0.5, 2.0, np.inf, np.nan, -np.nan])
    return rng.choice(values, shape, p=[0.05, *[0.12] * 7, 0.05, 0.05, 0.01])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 50])
def test_network_is_numpys_stable_sort_with_ties_and_nan(n):
    x = np.float32(with_ties(n, n, 9))
    values, order = jax.jit(lambda x: (sort(x, form="network"), argsort(x, form="network")))(x)
    np.testing.assert_array_equal(values, np.sort(x, 0))
    np.testing.assert_array_equal(order, np.argsort(x, 0, kind="stable"))
    np.testing.assert_array_equal(order, jax.jit(lambda x: argsort(x, form="lax"))(x))


def test_network_sorts_random_bits_of_every_exponent():
    x = jax.random.bits(jax.random.key(0), (64, 16), jnp.uint32).view(jnp.float32)
    x = np.asarray(jnp.where(jnp.abs(x) < 1e-37, 0.0, x))  # denormals: XLA may flush them
    values, order = jax.jit(lambda x: (sort(x, form="network"), argsort(x, form="network")))(x)
    np.testing.assert_array_equal(values, np.sort(x, 0))
    np.testing.assert_array_equal(order, np.argsort(x, 0, kind="stable"))


def test_permutation_of_so_many_rows_that_it_takes_three_digits():
    x = np.asarray(normal(28, 2**16 + 1, 1))
    order = jax.jit(lambda x: argsort(x, form="network"))(x)
    np.testing.assert_array_equal(order, np.argsort(x, 0, kind="stable"))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_network_sorts_half_precision_along_any_axis(dtype):
    x = jnp.asarray(with_ties(1, 2, 13, 9), dtype)
    values, order = jax.jit(lambda x: (sort(x, 1, form="network"), argsort(x, 1, form="network")))(x)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values.astype(jnp.float32), np.sort(np.float32(x), 1))
    np.testing.assert_array_equal(order, np.argsort(np.float32(x), 1, kind="stable"))


def test_gradient_of_the_network_is_that_of_lax_sort():
    x, weights = jnp.round(2.0 * normal(0, 21, 10)), normal(1, 21, 10)  # with ties

    def loss(x, form):
        s = sort(x, form=form) if form else jax.lax.sort(x, dimension=0)
        return jnp.sum(weights * s + jnp.sin(s) * s)

    network, lax_form, lax_own = (jax.jit(jax.grad(loss), static_argnums=1)(x, f) for f in ("network", "lax", None))
    np.testing.assert_allclose(network, lax_own, rtol=1e-6)
    np.testing.assert_allclose(lax_form, lax_own, rtol=1e-6)
    tangents = [jax.jit(lambda x, f=f: jax.jvp(lambda x: sort(x, form=f), (x,), (weights,))[1])(x)
                for f in ("network", "lax")]
    np.testing.assert_array_equal(*tangents)
    by_row = jax.jit(jax.vmap(lambda x: sort(x, form="network")))(x.reshape(3, 7, 10))
    np.testing.assert_array_equal(by_row, np.sort(x.reshape(3, 7, 10), 1))


def test_one_dimensional_transport_is_the_best_assignment():
    x, y = normal(2, 50, 3), 0.5 + 2.0 * normal(3, 50, 3)
    for p in (1, 2):
        costs = np.abs(np.asarray(x, np.float64)[:, None] - np.asarray(y, np.float64)) ** p
        best = [costs[..., c][linear_sum_assignment(costs[..., c])].mean() for c in range(3)]
        np.testing.assert_allclose(jax.jit(wasserstein_1d, static_argnums=2)(x, y, p), best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n, m", [(7, 5), (6, 9), (1, 4)])
def test_unequal_sizes_are_exact(n, m):
    """Against scipy, repeated samples (n and m to their common multiple), and the linear program of transport."""
    x, y = np.asarray(normal(n, n, 2), np.float64), np.asarray(normal(m + 10, m, 2), np.float64)
    found = {p: jax.jit(wasserstein_1d, static_argnums=2)(jnp.float32(x), jnp.float32(y), p) for p in (1, 2)}
    np.testing.assert_allclose(found[1], [wasserstein_distance(x[:, c], y[:, c]) for c in range(2)], rtol=1e-5)
    many = math.lcm(n, m)
    repeated = np.sort(np.repeat(x, many // n, 0), 0) - np.sort(np.repeat(y, many // m, 0), 0)
    np.testing.assert_allclose(found[2], (repeated**2).mean(0), rtol=1e-5)
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    plan = linprog(((x[:, None, 0] - y[:, 0]) ** 2).ravel(), A_eq=marginals, b_eq=np.repeat([1 / n, 1 / m], [n, m]))
    np.testing.assert_allclose(found[2][0], plan.fun, rtol=1e-5)


def test_gradient_is_that_of_finite_differences_for_equal_and_unequal_sizes():
    """In float64, by the same sums over numpy's sort: the differences are exact but for the step."""
    x, key = normal(4, 12, 3), jax.random.key(5)
    theta = np.asarray(sample_sphere(key, 6, 3), np.float64)
    for m, p in ((12, 2), (9, 1), (9, 2)):
        y = normal(6, m, 3) + 0.3

        def reference(x, y=y, m=m, p=p):
            a, b = np.sort(x @ theta.T, 0), np.sort(np.asarray(y, np.float64) @ theta.T, 0)
            return (np.abs(np.repeat(a, m, 0) - np.repeat(b, 12, 0)) ** p).mean()

        value, by_x = jax.jit(jax.value_and_grad(lambda x, y, p=p: sliced_wasserstein(x, y, key, 6, p)))(x, y)
        np.testing.assert_allclose(value, reference(np.float64(x)), rtol=1e-5)
        differences = np.zeros(x.shape)
        for at in np.ndindex(*x.shape):
            step = np.zeros(x.shape)
            step[at] = 1e-6
            differences[at] = (reference(np.float64(x) + step) - reference(np.float64(x) - step)) / 2e-6
        np.testing.assert_allclose(by_x, differences, rtol=1e-3, atol=1e-6)


def test_gaussians_are_at_their_closed_distance():
    """N(m1, s1^2 I), N(m2, s2^2 I): |m1 - m2|^2 / d + (s1 - s2)^2, on samples with exactly these moments."""
    n, d, num, key = 4000, 5, 500, jax.random.key(9)
    gap = np.array([0.8, -0.5, 0.0, 0.3, 0.5])

    def whitened(seed):
        z = np.asarray(normal(seed, n, d), np.float64)
        z -= z.mean(0)
        return z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T

    x, y = jnp.float32(1.5 * whitened(7)), jnp.float32(0.5 * whitened(8) + gap)
    found = jax.jit(lambda x, y: sliced_wasserstein(x, y, key, num))(x, y)
    along = np.square(np.asarray(sample_sphere(key, num, d)) @ gap).mean()  # of these directions
    np.testing.assert_allclose(found, along + 1.0, rtol=0.003)
    np.testing.assert_allclose(found, np.sum(gap**2) / d + 1.0, rtol=0.03)  # of all


def test_directions_are_uniform_on_the_sphere():
    theta = np.asarray(jax.jit(sample_sphere, static_argnums=(1, 2))(jax.random.key(0), 20_000, 3))
    np.testing.assert_allclose((theta**2).sum(1), 1.0, rtol=1e-5)
    # Archimedes: each coordinate is uniform in [-1, 1] in three dimensions.
    assert np.abs(np.sort(theta, 0) - np.linspace(-1, 1, 20_000)[:, None]).max() < 0.03
    np.testing.assert_allclose(theta.T @ theta / 20_000, np.eye(3) / 3, atol=0.01)


def test_distance_is_zero_on_permutations_symmetric_and_nan_on_nan():
    x, y, key = normal(10, 16, 4), normal(11, 16, 4), jax.random.key(12)
    distance = jax.jit(lambda x, y: sliced_wasserstein(x, y, key, 10))
    assert distance(x, x[::-1]) == 0.0
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)
    assert np.isnan(distance(x.at[3, 1].set(jnp.nan), x))


def test_max_sliced_finds_the_planted_direction():
    """Two clouds apart along one direction of 16: W_2^2 there is the squared gap, and SW_2^2 a sixteenth of it."""
    planted = sample_sphere(jax.random.key(13), 1, 16)[0]
    x = normal(14, 200, 16)
    y = normal(15, 200, 16) + 4.0 * planted
    key = jax.random.key(16)
    found = jax.jit(lambda x, y: {p: max_sliced_wasserstein(x, y, key, num_starts=4, p=p) for p in (1, 2)})(x, y)
    for p in (1, 2):
        along = wasserstein_1d(x @ planted, y @ planted, p)
        assert abs(found[p].direction @ planted) > 0.97
        assert along <= found[p].distance < 1.15 * along  # the samples' own maximum is a little higher
        assert found[p].distance > 2 * sliced_wasserstein(x, y, key, 4, p)


def test_max_sliced_is_not_below_sliced_and_grows_with_steps():
    x, y = normal(17, 30, 6), normal(18, 20, 6) ** 3
    keys = jax.random.split(jax.random.key(0), 5)
    sliced, start, end = jax.jit(jax.vmap(lambda key: (
        sliced_wasserstein(x, y, key, 4),
        *(max_sliced_wasserstein(x, y, key, steps, 4).distance for steps in (0, 10)))))(keys)
    assert np.all(sliced < start) and np.all(start <= end) and np.mean(end / start) > 1.1


def test_max_sliced_in_two_dimensions_is_the_maximum_over_the_circle_with_the_envelope_gradient():
    x, y, key = normal(19, 20, 2) * jnp.array([3.0, 1.0]), normal(20, 20, 2), jax.random.key(21)
    angles = np.linspace(0, np.pi, 20_000)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)

    def brute(x):
        gaps = np.sort(x @ circle.T, 0) - np.sort(np.asarray(y, np.float64) @ circle.T, 0)
        return (gaps**2).mean(0).max()

    value, by_x = jax.jit(jax.value_and_grad(lambda x: max_sliced_wasserstein(x, y, key, 30, 4).distance))(x)
    np.testing.assert_allclose(value, brute(np.float64(x)), rtol=1e-4)
    step = np.zeros(x.shape)
    step[4, 0] = 1e-3
    difference = (brute(np.float64(x) + step) - brute(np.float64(x) - step)) / 2e-3
    np.testing.assert_allclose(by_x[4, 0], difference, rtol=1e-2)


def test_generalized_slices_are_the_papers():
    """Circular and cubic slices written out in numpy; degree 1, wide circles and a linear callable are `sliced`."""
    x, y, key = normal(22, 10, 3), normal(23, 10, 3), jax.random.key(24)

    def brute(function, theta):
        a, b = (np.sort([[function(v, t) for t in theta] for v in np.asarray(z, np.float64)], 0) for z in (x, y))
        return ((a - b) ** 2).mean()

    options = [{"radius": 2.0}, {"defining": "polynomial"}, {"defining": "polynomial", "degree": 1}, {"radius": 300.0},
               {"defining": lambda x, key, num: x @ sample_sphere(key, num, 3).T}]
    circular, cubic, degree_one, wide, called, linear = jax.jit(lambda x, y: [
        *(generalized_sliced_wasserstein(x, y, key, 6, **o) for o in options), sliced_wasserstein(x, y, key, 6)])(x, y)
    sphere = np.asarray(sample_sphere(key, 6, 3), np.float64)
    np.testing.assert_allclose(circular, brute(lambda v, t: np.linalg.norm(v - 2.0 * t), sphere), rtol=1e-5)
    powers = list(itertools.combinations_with_replacement(range(3), 3))
    theta = np.asarray(sample_sphere(key, 6, len(powers)), np.float64)
    expected = brute(lambda v, t: sum(c * v[i] * v[j] * v[k] for c, (i, j, k) in zip(t, powers, strict=True)), theta)
    np.testing.assert_allclose(cubic, expected, rtol=1e-5)
    np.testing.assert_allclose([degree_one, called], linear, rtol=1e-5)
    np.testing.assert_allclose(wide, linear, rtol=0.02)
    # A vector at a circle's centre: a kink, where the gradient is taken as zero.
    centre = jax.grad(lambda x: generalized_sliced_wasserstein(x, y[:1], key, 1))(sample_sphere(key, 1, 3))
    assert np.all(np.isfinite(centre))


KEY = jax.random.key(0)
LOSSES = {
    "sliced": lambda x, y, axis: sliced_wasserstein(x, y, KEY, 16, 2, axis),
    "circular, 5 projections": lambda x, y, axis: generalized_sliced_wasserstein(x, y, KEY, 5, 1, axis_name=axis),
    "max": lambda x, y, axis: max_sliced_wasserstein(x, y, KEY, 3, 4, axis_name=axis).distance,
}


def test_one_device_is_eight():
    """With codes y = x w, and the gradient by w averaged over replicas as data-parallel training does."""
    x, prior, w = normal(25, 16, 5), normal(26, 8, 3), normal(27, 5, 3)

    def step(w, x, prior, axis=None):
        return {name: jax.value_and_grad(lambda w, loss=loss: loss(x @ w, prior, axis))(w)
                for name, loss in LOSSES.items()}

    one = jax.jit(step)(w, x, prior)
    mesh = jax.make_mesh((REPLICAS,), ("r",), axis_types=(AxisType.Auto,))
    sharded = jax.jit(step)(w, *jax.device_put((x, prior), NamedSharding(mesh, PartitionSpec("r"))))
    replicas = jax.pmap(lambda x, prior: step(w, x, prior, "r"), "r")(
        x.reshape(REPLICAS, -1, 5), prior.reshape(REPLICAS, -1, 3))
    for name in LOSSES:
        np.testing.assert_allclose(replicas[name][0], one[name][0], rtol=1e-5)  # the global loss on every replica
    for other in (sharded, jax.tree.map(lambda leaf: leaf.mean(0), replicas)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)


@pytest.mark.parametrize("call, message", [
    (lambda x, y, k: sliced_wasserstein(x[:0], y, k), "at least one vector"),
    (lambda x, y, k: sliced_wasserstein(x, y[:, :2], k), r"\(4, 3\) and \(4, 2\)"),
    (lambda x, y, k: sliced_wasserstein(x, y, k, p=3), "p = 1 or 2, got 3"),
    (lambda x, y, k: sliced_wasserstein(x, y, k, num_projections=0), "num_projections=0"),
    (lambda x, y, k: wasserstein_1d(x[:0], y), "n, m >= 1"),
    (lambda x, y, k: wasserstein_1d(x, y[:, :1]), "same columns"),
    (lambda x, y, k: wasserstein_1d(x, y, p=0), "got 0"),
    (lambda x, y, k: sample_sphere(k, 0, 3), "at least 1"),
    (lambda x, y, k: max_sliced_wasserstein(x, y, k, num_starts=0), "num_starts=0"),
    (lambda x, y, k: max_sliced_wasserstein(x, y[:0], k), "at least one vector"),
    (lambda x, y, k: generalized_sliced_wasserstein(x, y, k, defining="polynomial", degree=2), "odd degree"),
    (lambda x, y, k: generalized_sliced_wasserstein(x, y, k, defining="spherical"), "choose 'circular'"),
    (lambda x, y, k: generalized_sliced_wasserstein(x, y, k, radius=0.0), "positive radius"),
    (lambda x, y, k: generalized_sliced_wasserstein(x, y, k, 5, defining=lambda x, k, n: x), r"\(4, 5\); got \(4, 3\)"),
    (lambda x, y, k: sort(x, form="quick"), "choose 'lax', 'network'"),
    (lambda x, y, k: sort(x[0, 0]), "got a scalar"),
])
def test_bad_input_is_told_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((4, 3)), jnp.zeros((4, 3)), jax.random.key(0))
