"""Metrics against closed forms, brute force in float64, scikit-image (frozen) and scikit-learn."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.test_util import check_grads

from jaxae import collectives, metrics
from jaxae.distributions import normal_log_prob

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "metrics.npz")


def replicas(f, *arrays):
    """f on eight slices of the arrays with a named axis, as replicas would call it."""
    parts = [a.reshape(8, a.shape[0] // 8, *a.shape[1:]) for a in arrays]
    return jax.jit(jax.vmap(lambda *args: f(*args, axis_name="data"), axis_name="data"))(*parts)


def correlated(seed, n, d, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((d, d)) * np.linspace(0.05, 1, d) / np.sqrt(d)
    return (scale * rng.standard_normal((n, d)) @ mix + 0.3 * (scale - 1)).astype(np.float32)


# ---------------------------------------------------------------- images

@pytest.mark.parametrize("name", ["gray", "colour"])
def test_image_metrics_equal_scikit_image(name):
    x, y, data_range = GOLDEN[f"{name}/x"], GOLDEN[f"{name}/y"], float(GOLDEN[f"{name}/data_range"])
    np.testing.assert_allclose(jax.jit(metrics.mse)(x, y), GOLDEN[f"{name}/mse"], rtol=1e-5)
    psnr = jax.jit(metrics.psnr, static_argnames="data_range")(x, y, data_range=data_range)
    np.testing.assert_allclose(psnr, GOLDEN[f"{name}/psnr"], rtol=1e-5)
    ssim = jax.jit(metrics.ssim, static_argnames=("data_range", "window", "sigma"))
    got = ssim(x, y, data_range=data_range)
    np.testing.assert_allclose(got, GOLDEN[f"{name}/ssim11"], atol=2e-6)
    got = ssim(x, y, data_range=data_range, window=7, sigma=0.9)
    np.testing.assert_allclose(got, GOLDEN[f"{name}/ssim7"], atol=2e-6)


def test_ssim_of_smaller_window_equals_brute_force():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 9, 8))
    taps = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for i in range(9 - 6):
        for j in range(8 - 6):
            a, b = x[i:i + 7, j:j + 7], y[i:i + 7, j:j + 7]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            luminance = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (va + vb + 9e-4))
    images = [jnp.asarray(v, jnp.float32)[None, :, :, None] for v in (x, y)]
    assert metrics.ssim(*images, window=7)[0] == pytest.approx(np.mean(values), abs=1e-6)


def test_ssim_is_one_only_for_equal_images_and_bounded():
    x = jax.random.uniform(jax.random.key(0), (3, 16, 16, 2))
    ssim = jax.jit(metrics.ssim)
    np.testing.assert_allclose(ssim(x, x), 1.0, atol=1e-6)
    inverted = ssim(x, 1 - x)
    assert (inverted < 0).all() and (inverted >= -1).all()
    assert np.isfinite(jax.jit(jax.grad(lambda v: metrics.ssim(v, x).sum()))(jnp.zeros_like(x))).all()
    assert (metrics.psnr(x, x) == jnp.inf).all()


def test_images_smaller_than_the_window_name_the_window_that_fits():
    for side, fitting in [(10, 7), (8, 7), (7, 7), (6, 5), (5, 5)]:
        small = jnp.zeros((1, side, 32, 1))
        with pytest.raises(ValueError, match=f"window={fitting}"):
            metrics.ssim(small, small)
        assert jax.eval_shape(lambda v, k=fitting: metrics.ssim(v, v, window=k), small).shape == (1,)
    with pytest.raises(ValueError, match="odd"):
        metrics.ssim(jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 16, 16, 1)), window=8)
    with pytest.raises(ValueError, match="one shape"):
        metrics.mse(jnp.zeros((2, 3)), jnp.zeros((2, 1)))  # would broadcast


# ---------------------------------------------------------------- Frechet distance

def frechet_by_sqrtm(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)


def frechet_streamed(a, b):
    sets = [metrics.update_moments(metrics.init_moments(x.shape[1]), jnp.asarray(x)) for x in (a, b)]
    return metrics.frechet_from_moments(*sets)


@pytest.mark.parametrize("distance", [metrics.frechet_distance, frechet_streamed])
def test_frechet_distance_equals_scipy_sqrtm(distance):
    a, b = correlated(0, 300, 24), correlated(1, 200, 24, 1.4)
    assert jax.jit(distance)(a, b) == pytest.approx(frechet_by_sqrtm(a, b), rel=1e-4)
    assert jax.jit(distance)(a, a) == pytest.approx(0.0, abs=1e-5 * np.trace(np.cov(a.T)))


@pytest.mark.parametrize("distance", [metrics.frechet_distance, frechet_streamed])
@pytest.mark.parametrize("n, m", [(20, 30), (20, 500), (500, 20)])
def test_frechet_distance_of_fewer_vectors_than_dimensions(distance, n, m):
    d = 96
    a, b = correlated(2, n, d), correlated(3, m, d, 1.3)
    # nuclear norm of the cross product of the centred sets, in float64
    x, y = ((v - v.mean(0, dtype=np.float64)) / np.sqrt(len(v) - 1) for v in (a, b))
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    traces = np.square(x).sum() + np.square(y).sum()
    want = np.square(a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)).sum() + traces - 2 * overlap
    assert jax.jit(distance)(a, b) == pytest.approx(want, abs=2e-6 * traces)


def exact_sample(n, mean, covariance):
    """Vectors whose sample mean and covariance are the given ones."""
    x = np.random.default_rng(5).standard_normal((n, len(mean)))
    x = x - x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return (x @ np.linalg.cholesky(covariance).T + mean).astype(np.float32)


@pytest.mark.parametrize("distance", [metrics.frechet_distance, frechet_streamed])
def test_frechet_distance_between_known_gaussians(distance):
    distance = jax.jit(distance)
    zero, eye = np.zeros(4), np.eye(4)
    shifted = exact_sample(50, np.array([1.0, 2.0, 0.0, -2.0]), eye)
    assert distance(exact_sample(50, zero, eye), shifted) == pytest.approx(9.0, rel=1e-4)
    # commuting covariances: sum (sqrt a - sqrt b)^2
    a, b = np.array([1.0, 4.0, 9.0, 0.25]), np.array([4.0, 4.0, 1.0, 1.0])
    want = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    got = distance(exact_sample(50, zero, np.diag(a)), exact_sample(60, zero, np.diag(b)))
    assert got == pytest.approx(want, rel=1e-4)
    # two dimensions, not commuting: tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det A det B))
    a, b = np.array([[2.0, 1.2], [1.2, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    want = np.trace(a + b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    got = distance(exact_sample(50, zero[:2], a), exact_sample(60, zero[:2], b))
    assert got == pytest.approx(want, rel=1e-4)


def test_frechet_distance_has_a_gradient():
    a, b = correlated(6, 12, 4), correlated(7, 9, 4, 1.5)
    check_grads(jax.jit(metrics.frechet_distance), (a, b), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_moments_stream_merge_and_skip_padding_far_from_the_origin():
    x = correlated(8, 203, 6) + 1000.0  # E[xx^T] - E[x]E[x]^T has no digits left at this offset
    update = jax.jit(metrics.update_moments)
    streamed = metrics.init_moments(6)
    for start in range(0, 203, 40):
        batch = x[start:start + 40]
        padded = np.concatenate([batch, np.full((40 - len(batch), 6), 7.0, np.float32)])
        streamed = update(streamed, padded, np.arange(40) < len(batch))
    halves = [update(metrics.init_moments(6), part) for part in (x[:50], x[50:])]
    for moments in (streamed, jax.jit(metrics.merge_moments)(*halves)):
        assert moments.count == 203
        np.testing.assert_allclose(moments.mean, x.mean(0, dtype=np.float64), rtol=1e-6)
        covariance = np.cov(x.astype(np.float64).T)
        np.testing.assert_allclose(moments.m2 / 202, covariance, atol=2e-3 * covariance.max())
    empty = metrics.init_moments(6)
    np.testing.assert_array_equal(metrics.merge_moments(empty, halves[0]).m2, halves[0].m2)
    assert np.isfinite(metrics.merge_moments(empty, empty).mean).all()


# ---------------------------------------------------------------- kernel distance

def kernel_by_loops(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    kernel = lambda x, y: (x @ y.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m = len(a), len(b)
    same = sum(((k := kernel(x, x)).sum() - np.trace(k)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return same - 2 * kernel(a, b).sum() / (n * m)


@pytest.mark.parametrize("block", [7, 16, 1024])
def test_kernel_distance_equals_float64_in_any_blocks(block):
    a, b = correlated(0, 64, 16, 3.0), correlated(1, 41, 16, 3.2)
    got = jax.jit(lambda x, y: metrics.kernel_distance(x, y, block=block))(a, b)
    want = kernel_by_loops(a, b)
    assert got == pytest.approx(want, abs=1e-5, rel=1e-4)
    assert abs(want) > 1e-3


def test_kernel_distance_keeps_its_digits_under_a_large_common_part():
    # kernel values near 1e3, distance near .04: plain float32 sums of 1000^2 of them are 6e-5 off
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, 1000, 64)) * [[[1.0]], [[1.02]]] + 3).astype(np.float32)
    assert jax.jit(metrics.kernel_distance)(a, b) == pytest.approx(kernel_by_loops(a, b), abs=8e-6)


def test_kernel_distance_is_unbiased():
    # of two sets from one distribution the expectation is zero whatever their size
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 4000, 6, 3)).astype(np.float32)
    values = np.asarray(jax.jit(jax.vmap(metrics.kernel_distance))(a, b))
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(4000)
    assert values.std() / np.sqrt(4000) < 0.03  # the biased estimate is off by 3.6
    assert (values < 0).any()


def test_kernel_distance_of_a_known_pair():
    # b = a shifted: with d = 1 the features of the kernel are 1, x, x^2, x^3 with weights 1, 3, 3, 1
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 60_000, 1)).astype(np.float32)
    got = jax.jit(metrics.kernel_distance)(a[:6000], b[:6000] + 1.0)
    # moments 0, 1, 0 against 1, 2, 4: 3 (1)^2 + 3 (1)^2 + 1 (4)^2
    assert got == pytest.approx(3 + 3 + 16, rel=0.12)


def test_kernel_distance_over_subsets_centers_on_the_whole_and_draws_without_replacement():
    a, b = correlated(0, 300, 8, 3.0), correlated(1, 280, 8, 3.5)
    subsets = jax.jit(metrics.kernel_distance_subsets, static_argnames=("subsets", "size"))
    result = subsets(jax.random.key(0), a, b, subsets=200, size=60)
    assert abs(result.mean - kernel_by_loops(a, b)) < 4 * result.std / np.sqrt(200)
    assert result.std > 0
    whole = subsets(jax.random.key(1), a[:50], b[:50], subsets=3, size=50)
    assert whole.mean == pytest.approx(kernel_by_loops(a[:50], b[:50]), rel=1e-4)
    assert whole.std == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match="smaller subsets"):
        subsets(jax.random.key(1), a, b)


@pytest.mark.parametrize("distance", [metrics.frechet_distance, metrics.kernel_distance])
def test_distances_refuse_other_dimensions_and_single_vectors(distance):
    with pytest.raises(ValueError, match="one dimension"):
        distance(jnp.zeros((5, 3)), jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        distance(jnp.zeros((1, 3)), jnp.zeros((5, 3)))


# ---------------------------------------------------------------- likelihood

LOADINGS = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
NOISE = 0.6


def linear_gaussian_log_weight(key, x, k, axis_name=None):
    """z ~ N(0, I), x | z ~ N(L z, NOISE^2); the proposal is the posterior, moved and 15% wider."""
    precision = np.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2
    mean = x @ LOADINGS @ np.linalg.inv(precision).astype(np.float32) / NOISE**2 + 0.02
    root = 1.15 * np.linalg.cholesky(np.linalg.inv(precision)).astype(np.float32)
    noise = collectives.draw(jax.random.normal, key, (x.shape[0], k, 2), axis_name).swapaxes(0, 1)
    z = mean + noise @ root.T  # [k n 2]
    log_q = normal_log_prob(noise, 0.0, 0.0).sum(-1) - np.log(np.diag(root)).sum()
    return (normal_log_prob(x, z @ LOADINGS.T, np.log(NOISE)).sum(-1) + normal_log_prob(z, 0.0, 0.0).sum(-1)
            - log_q)


X = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32) * 2
COVARIANCE = LOADINGS @ LOADINGS.T + NOISE**2 * np.eye(5)
EXACT_NLL = -scipy.stats.multivariate_normal(np.zeros(5), COVARIANCE).logpdf(X)


estimate = jax.jit(metrics.importance_sampled_nll, static_argnums=(0, 3, 4))


def nll(key, x, samples, chunk, axis_name=None):
    return metrics.importance_sampled_nll(linear_gaussian_log_weight, key, x, samples, chunk, axis_name)


@pytest.mark.parametrize("chunk", [1, 333, 9999])
def test_importance_sampling_reaches_the_exact_likelihood_in_chunks_of_any_size(chunk):
    got = jax.jit(lambda x: nll(jax.random.key(0), x, 5000, chunk))(X)
    np.testing.assert_allclose(got, EXACT_NLL, atol=0.01)


def test_importance_sampling_weighs_every_chunk_and_the_rest_once():
    # weights that count: the k samples of a call weigh 1..k, and the calls are told apart by nothing else
    def log_weight(key, x, k):
        return jnp.log(jnp.arange(1.0, k + 1))[:, None] + x

    for samples, chunk in [(12, 4), (13, 4), (3, 4)]:
        sizes = [chunk] * (samples // chunk) + [samples % chunk]
        want = -np.log(sum(k * (k + 1) / 2 for k in sizes) / samples) - 300.0
        got = estimate(log_weight, jax.random.key(0), jnp.full(2, 300.0), samples, chunk)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_importance_sampling_draws_fresh_noise_in_every_chunk_and_from_every_key():
    def log_weight(key, x, k):
        return 3.0 * jax.random.normal(key, (k, x.shape[0]))

    x = jnp.zeros(4000)
    ones = estimate(log_weight, jax.random.key(0), x, 16, 1)
    whole = estimate(log_weight, jax.random.key(1), x, 16, 16)
    rest = estimate(log_weight, jax.random.key(2), x, 16, 9)
    assert scipy.stats.ks_2samp(ones, whole).pvalue > 1e-3
    assert scipy.stats.ks_2samp(rest, whole).pvalue > 1e-3
    # if chunks shared their noise, 16 chunks of one would be no better than a single sample
    assert ones.std() < 0.8 * estimate(log_weight, jax.random.key(3), x, 1).std()


def test_importance_sampling_needs_the_memory_of_one_chunk():
    def log_weight(key, x, k):  # a decoder with 64 activations for each sample
        return (jnp.tanh(jax.random.uniform(key, (k, 1, 1)) + x) @ jnp.ones((5, 64)) @ jnp.ones(64)) / 64

    def temporaries(samples, chunk):
        compiled = estimate.lower(log_weight, jax.random.key(0), X, samples, chunk).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    in_chunks = temporaries(20_000, 50)
    assert in_chunks < 0.1 * temporaries(20_000, 20_000)
    assert in_chunks - temporaries(2_000, 50) <= (400 - 40) * (8 + 4) * 4  # a number and two keys a chunk


def test_importance_sampling_refuses_nonsense():
    with pytest.raises(ValueError, match="above 0"):
        nll(jax.random.key(0), X, 0, 10)
    with pytest.raises(ValueError, match="must return"):
        metrics.importance_sampled_nll(lambda key, x, k: jnp.zeros((8, k)), jax.random.key(0), X, 10, 5)


# ---------------------------------------------------------------- codes

def test_code_counts_equal_numpy_and_skip_codes_outside():
    codes = np.random.default_rng(0).integers(0, 7, (4, 5, 6))
    counts = jax.jit(metrics.code_counts, static_argnums=1)
    np.testing.assert_array_equal(counts(codes, 9), np.bincount(codes.ravel(), minlength=9))
    np.testing.assert_array_equal(counts(np.array([-1, 0, 2, 3, -2, -9]), 3), [1, 0, 1])


def test_perplexity_and_usage_of_known_distributions():
    perplexity, usage = jax.jit(metrics.perplexity), jax.jit(metrics.usage)
    counts = jnp.array([[4, 4, 4, 4], [7, 0, 0, 0], [1, 2, 1, 0]])
    np.testing.assert_allclose(perplexity(counts), [4.0, 1.0, 2**1.5], rtol=1e-6)
    np.testing.assert_allclose(usage(counts), [1.0, 0.25, 0.75])
    assert perplexity(3.5 * counts[2]) == pytest.approx(2**1.5)  # of running averages as well
    assert np.isnan(perplexity(jnp.zeros(4)))


# ---------------------------------------------------------------- probe

def blobs(seed, n, d, classes, spread, offset=0.0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).standard_normal((classes, d)) * 3
    y = rng.integers(0, classes, n)
    return (centers[y] + spread * rng.standard_normal((n, d)) + offset).astype(np.float32), y


PROBE = jax.jit(metrics.linear_probe, static_argnames=("classes", "ridge", "axis_name"))


def test_probe_reads_separable_classes_whatever_scale_and_offset():
    (x, y), (test_x, test_y) = blobs(1, 400, 12, 5, 0.3), blobs(2, 200, 12, 5, 0.3)
    assert PROBE(x, y, test_x, test_y, classes=5) == 1.0
    scale, offset = np.geomspace(1e-3, 1e3, 12, dtype=np.float32), np.float32(50.0)
    assert PROBE(x * scale + offset * scale, y, test_x * scale + offset * scale, test_y, classes=5) == 1.0


def test_probe_is_at_chance_on_random_labels_and_on_exclusive_or():
    rng = np.random.default_rng(3)
    x, test_x = rng.standard_normal((2, 2000, 10)).astype(np.float32)
    labels, test_labels = rng.integers(0, 4, (2, 2000))
    assert abs(PROBE(x, labels, test_x, test_labels, classes=4) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)
    y, test_y = (((v[:, 0] > 0) ^ (v[:, 1] > 0)).astype(int) for v in (x, test_x))
    assert abs(PROBE(x, y, test_x, test_y, classes=2) - 0.5) < 0.06  # not linear


@pytest.mark.parametrize("n, d, classes, ridge", [(300, 20, 6, 1e-3), (40, 90, 3, 0.1), (200, 8, 2, 1.0)])
def test_probe_equals_scikit_learn_ridge_classifier(n, d, classes, ridge):
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    (x, y), (test_x, test_y) = blobs(4, n, d, classes, 8.0), blobs(5, 500, d, classes, 8.0)
    scaler = StandardScaler().fit(x)
    theirs = RidgeClassifier(alpha=ridge * n).fit(scaler.transform(x), y)
    want = theirs.score(scaler.transform(test_x), test_y)
    assert 1 / classes + 0.05 < want < 0.99
    got = PROBE(x, y, test_x, test_y, classes=classes, ridge=ridge)
    assert got == pytest.approx(want, abs=1.5 / 500)  # a tie may fall either way


def test_probe_gives_constant_features_no_weight():
    (x, y), (test_x, test_y) = blobs(6, 300, 6, 3, 0.3), blobs(7, 200, 6, 3, 0.3)
    x = np.concatenate([x, np.full((300, 1), 0.1, np.float32)], 1)
    test_x = np.concatenate([test_x, np.linspace(-1e4, 1e4, 200, dtype=np.float32)[:, None]], 1)
    assert PROBE(x, y, test_x, test_y, classes=3) == 1.0
    with pytest.raises(ValueError, match="ridge"):
        PROBE(x, y, test_x, test_y, classes=3, ridge=0.0)


# ---------------------------------------------------------------- eight replicas and one device

def test_eight_replicas_give_the_numbers_of_one_device():
    a, b = jnp.asarray(correlated(0, 64, 10)), jnp.asarray(correlated(1, 48, 10, 1.3))
    y, test_y = jnp.arange(64) % 3, jnp.arange(48) % 3
    codes = jax.random.randint(jax.random.key(0), (16, 3), 0, 11)
    mask = jnp.arange(64) < 59

    def moments(x, mask, axis_name=None):
        return metrics.update_moments(metrics.init_moments(10), x, mask, axis_name)

    def subsets(x, y, axis_name=None):
        return metrics.kernel_distance_subsets(jax.random.key(2), x, y, 5, 20, axis_name=axis_name)

    def probe(x, y, test_x, test_y, axis_name=None):
        return metrics.linear_probe(x, y, test_x, test_y, 3, axis_name=axis_name)

    for f, args in [
        (metrics.frechet_distance, (a, b)), (metrics.kernel_distance, (a, b)), (subsets, (a, b)),
        (moments, (a, mask)), (probe, (a, y, b, test_y)),
        (lambda v, axis_name=None: metrics.code_counts(v, 11, axis_name), (codes,)),
    ]:
        whole, parts = jax.tree.leaves(jax.jit(f)(*args)), jax.tree.leaves(replicas(f, *args))
        for one, each in zip(whole, parts, strict=True):
            np.testing.assert_allclose(each, np.broadcast_to(one, each.shape), rtol=2e-4, atol=1e-4)


def test_importance_sampling_on_eight_replicas_draws_the_noise_of_one_device():
    key, x = jax.random.key(5), jnp.asarray(X)
    one = jax.jit(nll, static_argnums=(2, 3))(key, x, 16, 8)
    parts = replicas(lambda v, axis_name: nll(key, v, 16, 8, axis_name), x)
    np.testing.assert_allclose(parts.ravel(), one, rtol=1e-5)
