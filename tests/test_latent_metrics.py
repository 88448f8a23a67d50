"""Metrics of latents against planted truth, quadrature, brute force and known fractals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxae.metrics import latents

INFORMATION = jax.jit(latents.latent_mutual_information, static_argnames="chunk")
MLE = jax.jit(latents.intrinsic_dimension_mle, static_argnames=("k", "block"))
TWO_NN = jax.jit(latents.intrinsic_dimension_two_nn, static_argnames=("discard", "block"))


# ---------------------------------------------------------------- active units, aggregate posterior

def test_active_units_counts_planted_units_at_both_sides_of_the_threshold():
    x = np.random.default_rng(0).standard_normal((500, 6))
    x = (x - x.mean(0)) / x.std(0)
    means = (x * np.sqrt([1.0, 0.0, 0.0101, 0.0099, 30.0, 1e-5]) + [0, 3, 100, 0, -5, 0]).astype(np.float32)
    active = jax.jit(latents.active_units, static_argnames="threshold")
    assert active(means) == 3  # an offset is no activity, and the variance, not the deviation, is compared
    assert active(means, threshold=0.0098) == 4


def test_aggregate_logdet_equals_float64_also_where_float32_covariances_are_singular():
    rng = np.random.default_rng(1)
    logdet = jax.jit(latents.aggregate_logdet)
    for scales in ([1.0, 1.0, 1.0], [1e3, 1.0, 1e-3]):
        z = (rng.standard_normal((60, 3)) * scales + 2.0).astype(np.float32)
        want = np.linalg.slogdet(np.cov(z.astype(np.float64).T))[1]
        assert logdet(z) == pytest.approx(want, abs=2e-3)
    with pytest.raises(ValueError, match="more than 3"):
        logdet(z[:3])


def test_mutual_information_of_the_aggregate_posterior_equals_quadrature():
    means, std = np.array([-2.0, -0.5, 0.0, 0.3, 4.0]), np.array([0.5, 0.2, 1.0, 0.1, 2.0])
    grid = np.linspace(-14, 18, 200_001)
    densities = scipy.stats.norm.pdf(grid, means[:, None], std[:, None])
    aggregate = densities.mean(0)
    terms = np.where(densities > 0, densities * np.log(np.maximum(densities, 1e-300) / aggregate), 0.0)
    want = terms.sum(1).mean() * (grid[1] - grid[0])
    assert 0.5 < want < 0.9 * np.log(5)
    # every posterior 400 times: their aggregate is the same
    means, log_std = (np.tile(v, 400)[:, None].astype(np.float32) for v in (means, np.log(std)))
    z = means + np.exp(log_std) * scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400).repeat(5)[:, None]
    assert INFORMATION(z.astype(np.float32), means, log_std, chunk=64) == pytest.approx(want, abs=4e-3)


def test_mutual_information_by_brute_force_in_chunks_of_any_size_and_at_its_ends():
    rng = np.random.default_rng(2)
    means, log_std = rng.standard_normal((20, 3)), 0.3 * rng.standard_normal((20, 3)) - 1
    z = means + np.exp(log_std) * rng.standard_normal((20, 3))
    log_q = scipy.stats.norm.logpdf(z[:, None], means, np.exp(log_std)).sum(-1)  # [z_i x_j]
    want = (np.diag(log_q) - scipy.special.logsumexp(log_q, 1) + np.log(20)).mean()
    args = [v.astype(np.float32) for v in (z, means, log_std)]
    for chunk in (1, 7, 100):
        assert INFORMATION(*args, chunk=chunk) == pytest.approx(want, abs=1e-5)
    assert INFORMATION(args[0], 0 * args[1], 0 * args[2]) == pytest.approx(0.0, abs=1e-6)  # collapse
    # posteriors without overlap: log n, also where squares would cancel in float32
    far = 1e3 + np.arange(20, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert INFORMATION(far, far, np.full_like(far, -6.0)) == pytest.approx(np.log(20), abs=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        latents.latent_mutual_information(args[0], args[1], args[2][:, :1])


# ---------------------------------------------------------------- classes and clusters

def test_class_mismatch_of_known_shares():
    mismatch = jax.jit(latents.class_mismatch, static_argnums=1)
    assert mismatch(np.arange(40) % 4, 4) == pytest.approx(0.0, abs=1e-7)
    assert mismatch(np.zeros(9, np.uint8), 4) == pytest.approx(np.sqrt(0.75**2 + 3 * 0.25**2))
    share = np.array([0.5, 0.25, 0.25])
    assert mismatch(np.array([0, 0, 1, 2]), 3, share) == pytest.approx(0.0, abs=1e-7)
    assert mismatch(np.array([0, 0, 0, 2]), 3, share) == pytest.approx(np.sqrt(2) / 4)
    with pytest.raises(ValueError, match="of 4 classes"):
        mismatch(np.arange(4), 4, share)


def test_cluster_accuracy_is_the_best_over_all_matchings():
    rng = np.random.default_rng(3)
    for clusters in (3, 4, 5):  # fewer than classes, as many, more
        label = rng.integers(0, 4, 60)
        cluster = np.where(rng.uniform(size=60) < 0.5, label % clusters, rng.integers(0, clusters, 60))
        matchings = itertools.permutations(range(max(clusters, 4)), clusters)
        want = max((np.array(m)[cluster] == label).mean() for m in matchings)
        names = np.array([7, -2, 30, 4, 11])
        assert latents.cluster_accuracy(names[cluster], 10 * label) == pytest.approx(want)
    # greedily 5 + 0; together 4 + 4
    cluster, label = np.repeat([[0, 0, 1], [0, 1, 0]], [5, 4, 4], 1)
    assert latents.cluster_accuracy(cluster, label) == pytest.approx(8 / 13)
    with pytest.raises(ValueError, match="one length"):
        latents.cluster_accuracy(cluster, label[1:])


# ---------------------------------------------------------------- intrinsic dimension

def manifold(seed, n, d):
    """A random smooth surface of d dimensions in R^64."""
    rng = np.random.default_rng(seed)
    hidden = np.tanh(rng.uniform(-1, 1, (n, d)) @ rng.standard_normal((d, 128)) * 1.5 + rng.standard_normal(128))
    return (hidden @ rng.standard_normal((128, 64)) / 11).astype(np.float32)


@pytest.mark.parametrize("d", [2, 6])
def test_intrinsic_dimension_of_curved_manifolds_in_64_dimensions(d):
    x = manifold(d, 3000, d)
    assert MLE(x) == pytest.approx(d, rel=0.15)
    assert TWO_NN(x) == pytest.approx(d, rel=0.15)
    spectrum = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    linear = np.searchsorted(np.cumsum(spectrum) / spectrum.sum(), 0.95) + 1
    assert linear > 1.15 * d  # the surface is curved: principal components see more


def test_intrinsic_dimension_equals_brute_force_far_from_the_origin_and_skips_copies():
    x = manifold(1, 90, 3) + np.float32(30)
    distance = np.sqrt(((x[:, None].astype(np.float64) - x) ** 2).sum(-1))
    near = np.sort(distance, 1)[:, 1:]
    want = 1 / np.log(near[:, 4:5] / near[:, :4]).mean()
    for block in (32, 512):
        assert MLE(x, k=5, block=block) == pytest.approx(want, rel=1e-3)
    ratio = np.sort(np.log(near[:, 1] / near[:, 0]))[:81]
    tail = -np.log(1 - np.arange(1, 82) / 90)
    assert TWO_NN(x) == pytest.approx((ratio * tail).sum() / (ratio**2).sum(), rel=1e-3)
    copied = np.concatenate([x, x[:1]])  # a copy has a neighbour at distance 0
    assert MLE(copied, k=5) == pytest.approx(want, rel=0.05) and np.isfinite(TWO_NN(copied))
    assert np.isnan(MLE(np.zeros_like(copied), k=5)) and np.isnan(TWO_NN(np.zeros_like(copied)))
    for estimate, points in [(latents.intrinsic_dimension_mle, 10), (latents.intrinsic_dimension_two_nn, 2)]:
        with pytest.raises(ValueError, match=f"at least {points + 1} points"):
            estimate(x[:points])
    with pytest.raises(ValueError, match="k >= 2"):
        MLE(x, k=1)
    with pytest.raises(ValueError, match="share"):
        TWO_NN(x, discard=1.0)


def test_box_counting_of_a_fractal_a_square_and_a_line_in_many_dimensions():
    dimension = jax.jit(latents.box_counting_dimension)
    i, j = np.indices((128, 128)).reshape(2, -1)
    sides = 0.5 ** np.arange(1, 6)
    embedding = np.zeros((2, 40), np.float32)
    embedding[0, [3, 17]], embedding[1, [5, 17]] = 1.0, 2.0  # exact in float32
    sierpinski = np.stack([i, j], 1)[(i & j) == 0] / np.float32(128)
    assert dimension(sierpinski - 5, sides) == pytest.approx(np.log2(3), abs=1e-5)  # 3^m boxes of side 2^-m
    square = np.stack([i, j], 1) / np.float32(128)
    assert dimension(square, sides) == pytest.approx(2.0, abs=1e-5)
    line = np.linspace(0, 1, 16384, endpoint=False, dtype=np.float32)[:, None] * embedding[:1]
    assert dimension(line, sides) == pytest.approx(1.0, abs=1e-5)
    x = square @ embedding
    boxes = [len(np.unique(np.floor((x - x.min(0)) / side), axis=0)) for side in sides]
    assert dimension(x, sides) == pytest.approx(np.polyfit(-np.log(sides), np.log(boxes), 1)[0], abs=1e-4)
    assert np.isnan(dimension(x + np.float32(np.inf), sides))
    with pytest.raises(ValueError, match="two sides"):
        dimension(x, sides[:1])


# ---------------------------------------------------------------- many devices

def test_eight_devices_give_the_numbers_and_gradients_of_one():
    rng = np.random.default_rng(7)
    x, labels = rng.standard_normal((64, 3)).astype(np.float32), rng.integers(0, 5, 64)
    w = rng.standard_normal((3, 2)).astype(np.float32)

    def coupled(w, x, axis_name=None):
        z = x @ w
        information = latents.latent_mutual_information(z + 0.1 * x[:, :2], z, 0.1 * z - 1.0, 8, axis_name)
        return information + 0.5 * latents.aggregate_logdet(z, axis_name), information

    def run(w, x, labels, axis_name=None):
        (_, information), gradient = jax.value_and_grad(coupled, has_aux=True)(w, x, axis_name)
        numbers = [information, latents.aggregate_logdet(x, axis_name), latents.active_units(x @ w, 1.0, axis_name),
                   latents.class_mismatch(labels, 5, axis_name=axis_name),
                   latents.intrinsic_dimension_mle(x, 4, axis_name=axis_name),
                   latents.intrinsic_dimension_two_nn(x, axis_name=axis_name),
                   latents.box_counting_dimension(x, jnp.array([0.5, 1.0, 2.0]), axis_name)]
        return jnp.stack(numbers), gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    one, gradient = jax.jit(run)(w, x, labels)
    assert np.isfinite(one).all()
    spread = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "data"), jax.sharding.PartitionSpec("data"))
    sharded = jax.jit(run)(w, *jax.device_put((x, labels), spread))
    each = jax.pmap(lambda *args: run(*args, "data"), "data", in_axes=(None, 0, 0))(
        w, x.reshape(8, 8, 3), labels.reshape(8, 8))
    for numbers, slope in [sharded, *zip(*each, strict=True)]:
        np.testing.assert_allclose(numbers, one, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-5)
    # and the gradient is the slope of the value
    direction = rng.standard_normal(w.shape).astype(np.float32)
    up, down = (jax.jit(coupled)(w + step * direction, x)[0] for step in (1e-2, -1e-2))
    assert (up - down) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=2e-2)
