"""Latent priors: exact enumeration, planted distributions, and other libraries' mixtures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax import lax
from sklearn.mixture import GaussianMixture

from jaxae.priors import MixtureParams, autoregressive, em, gaussian_mixture

# ---------------------------------------------------------------------------------- autoregressive


def _random_params(prior, codes, label=None, scale=0.7):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), codes, label)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, scale, p.shape)), shapes)


@functools.cache
def _tiny(shape):
    """A prior far from uniform on maps of 3 codes, with every map and its log-probability in class 1."""
    prior = autoregressive(shape, num_codes=3, num_classes=2, hidden=4, layers=2, first_kernel=3, embed=4)
    maps = jnp.array(list(itertools.product(range(3), repeat=int(np.prod(shape))))).reshape(-1, *shape)
    params = _random_params(prior, maps, jnp.zeros(len(maps), int))
    label = jnp.ones(len(maps), int)
    log_prob = jax.jit(prior.log_prob)
    return prior, params, maps, np.asarray(log_prob(params, maps, label)), log_prob


@pytest.mark.parametrize("shape", [(2, 2), (4,)])
def test_probabilities_of_all_maps_sum_to_one(shape):
    _, params, maps, log_p, log_prob = _tiny(shape)
    other = log_prob(params, maps, jnp.zeros(81, int))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(other).sum(), 1, atol=1e-5)
    assert log_p.std() > 0.5 and np.abs(other - log_p).max() > 0.1  # neither uniform nor blind to the class


@pytest.mark.parametrize("shape", [(2, 2), (4,)])
def test_samples_have_the_enumerated_probabilities(shape):
    prior, params, maps, log_p, _ = _tiny(shape)
    n = 20_000
    samples = prior.sample(params, jax.random.key(0), n, jnp.ones(n, int))
    counts = np.bincount(samples.reshape(n, 4) @ np.array([27, 9, 3, 1]), minlength=81)
    expected = n * np.exp(log_p)
    common = expected > 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-3))
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert common.sum() > 20
    assert chi_square < scipy.stats.chi2.isf(1e-4, len(observed) - 1)


def test_temperature_sharpens_each_conditional_and_zero_is_greedy():
    prior, params, _, log_p, _ = _tiny((2, 2))
    table = np.exp(log_p).reshape(3, 3, 3, 3)
    sharp, greedy = np.ones_like(table), []
    for t in range(4):
        marginal = table.sum(tuple(range(t + 1, 4)), keepdims=True)
        conditional = marginal / marginal.sum(t, keepdims=True)
        sharp = sharp * conditional**2 / (conditional**2).sum(t, keepdims=True)
        greedy.append(int(np.argmax(conditional[(*greedy, slice(None), *[0] * (3 - t))])))
    n = 10_000
    samples = prior.sample(params, jax.random.key(1), n, jnp.ones(n, int), temperature=0.5).reshape(n, 4)
    frequency = np.bincount(samples @ np.array([27, 9, 3, 1]), minlength=81) / n
    assert np.abs(frequency - sharp.ravel()).sum() / 2 < 0.04  # total variation; sampling noise is about .02
    assert np.abs(table - sharp).sum() / 2 > 0.1
    coldest = prior.sample(params, jax.random.key(2), 3, jnp.ones(3, int), temperature=0.0)
    np.testing.assert_array_equal(coldest.reshape(3, 4), [greedy] * 3)


NOISE, CODES, SIDE = 0.2, 4, 4


def _planted(key, label):
    """Maps whose code is, in raster order, the one before plus 1 + label; uniform in one case of five."""
    first, noisy, anew = jax.random.split(key, 3)
    n, length = label.shape[0], SIDE * SIDE
    fresh = jax.random.randint(anew, (length, n), 0, CODES)
    replace = jax.random.bernoulli(noisy, NOISE, (length, n))

    def step(code, noise):
        code = jnp.where(noise[0], noise[1], (code + 1 + label) % CODES)
        return code, code

    start = jax.random.randint(first, (n,), 0, CODES)
    return lax.scan(step, start, (replace, fresh))[1].T.reshape(n, SIDE, SIDE)


def _planted_entropy():
    other = NOISE / CODES
    stay = 1 - NOISE + other
    step = -stay * np.log(stay) - (CODES - 1) * other * np.log(other)
    return np.log(CODES) + (SIDE * SIDE - 1) * step


@functools.cache
def _trained():
    prior = autoregressive((SIDE, SIDE), CODES, num_classes=2, hidden=16, layers=2, embed=8)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 250))

    def batch(key, n):
        key_label, key_map = jax.random.split(key)
        label = jax.random.randint(key_label, (n,), 0, 2)
        return _planted(key_map, label), label

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            codes, label = batch(key, 64)
            grads = jax.grad(lambda p: -prior.log_prob(p, codes, label).mean())(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None
        return lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 250))[0][0]

    # Keys of XLA's own generator: a program with many draws compiles several times faster.
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    params = train(jax.jit(prior.init)(keys[0], *batch(keys[1], 4)), keys[2])
    return prior, params, batch


def test_training_approaches_the_planted_entropy():
    prior, params, batch = _trained()
    nll = -np.asarray(jax.jit(prior.log_prob)(params, *batch(jax.random.key(3, impl="rbg"), 4000)))
    error = nll.std() / np.sqrt(len(nll))
    entropy = _planted_entropy()  # 10.2 nats of 22.2; not to see the row above would cost 2.4
    assert entropy - 4 * error < nll.mean() < 1.03 * entropy


def test_trained_samples_follow_the_planted_pairs_of_their_class():
    prior, params, _ = _trained()
    n = 1000
    label = jnp.arange(n) % 2
    samples = np.asarray(prior.sample(params, jax.random.key(4), n, label)).reshape(n, -1)
    for y in (0, 1):
        before, after = samples[label == y, :-1].ravel(), samples[label == y, 1:].ravel()
        table = np.zeros((CODES, CODES))
        np.add.at(table, (before, after), 1)
        follows = (np.arange(CODES)[:, None] + 1 + y) % CODES == np.arange(CODES)
        # Given the code before, transitions are independent: a chi-square of 4 * 3 degrees of freedom.
        expected = table.sum(1, keepdims=True) * ((1 - NOISE) * follows + NOISE / CODES)
        chi_square = ((table - expected) ** 2 / expected).sum()
        assert chi_square < 60  # 39 at level 1e-4, and room for the fit's error; the other class gives > 10,000
    first = np.bincount(samples[:, 0], minlength=CODES) / n
    assert np.abs(first - 1 / CODES).max() < 0.06  # sd .014


def test_seeds_train_and_sample_side_by_side_as_alone():
    prior = autoregressive((2, 3), num_codes=4, hidden=8, layers=2, embed=4)
    codes = jax.random.randint(jax.random.key(0), (5, 2, 3), 0, 4)
    one, two = (_random_params(prior, codes, scale=s) for s in (0.5, 0.8))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, two)
    keys = jax.random.split(jax.random.key(1), 2)
    log_prob = jax.jit(jax.vmap(prior.log_prob, (0, None)))(both, codes)
    samples = jax.jit(jax.vmap(lambda p, k: prior.sample(p, k, 6)))(both, keys)
    for i, params in enumerate((one, two)):
        np.testing.assert_allclose(log_prob[i], jax.jit(prior.log_prob)(params, codes), rtol=1e-5)
        np.testing.assert_array_equal(samples[i], prior.sample(params, keys[i], 6))


def test_dropout_acts_only_with_a_key():
    prior = autoregressive((3,), num_codes=4, hidden=16, layers=1, dropout=0.5)
    codes = jnp.zeros((2, 3), int)
    params = _random_params(prior, codes)
    log_prob = jax.jit(prior.log_prob)
    one, two = (log_prob(params, codes, None, jax.random.key(i)) for i in (0, 1))
    assert np.abs(one - two).min() > 1e-4
    np.testing.assert_array_equal(log_prob(params, codes), log_prob(params, codes))


def test_codes_outside_the_codebook_are_nan():
    prior = autoregressive((3,), num_codes=4, hidden=4, layers=1)
    codes = jnp.array([[0, 1, 3], [0, 1, 4], [0, 1, -1]])
    log_p = jax.jit(prior.log_prob)(_random_params(prior, codes), codes)
    np.testing.assert_array_equal(np.isnan(log_p), [False, True, True])


def test_autoregressive_refuses_what_it_cannot_model():
    codes = jnp.zeros((2, 3, 3), int)
    with pytest.raises(ValueError, match="shape of one code map"):
        autoregressive((3, 3, 3), 4)
    prior = autoregressive((3, 3), 4, num_classes=2, hidden=4, layers=1)
    with pytest.raises(ValueError, match="needs integer label"):
        prior.init(jax.random.key(0), codes)
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 3, 3\]"):
        prior.init(jax.random.key(0), codes[:, :2], jnp.zeros(2, int))
    with pytest.raises(ValueError, match="needs integer label"):
        prior.sample({}, jax.random.key(0), 2)


# ---------------------------------------------------------------------------------- gaussian mixture


def _blobs(n=1000, k=5, d=4, seed=0, gap=5.0):
    """Gaussians with tilted covariances, well separated or (small gap) not: data, weights, means, covariances."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(k, 10.0))
    means = gap * np.cos(np.arange(k)[:, None] * (1.3 + np.arange(d)))
    factors = rng.normal(0, 0.4, (k, d, d)) + 0.6 * np.eye(d)
    component = rng.choice(k, n, p=weights)
    x = means[component] + np.einsum("nij,nj->ni", factors[component], rng.normal(size=(n, d)))
    return x.astype(np.float32), weights, means, factors @ factors.transpose(0, 2, 1)


def _em(x, seed=0, covariance="full", floor=1e-6, tol=1e-5, restarts=4):
    """Most tests share this shape of call, so that it is compiled once for each covariance."""
    return em(jnp.array(x), jax.random.key(seed), 5, covariance, tol=tol, floor=floor, restarts=restarts)


def _covariances(params):
    return np.asarray(params.scale_tril) @ np.asarray(params.scale_tril).transpose(0, 2, 1)


def _mixture(weights, means, covariances):
    return MixtureParams(jnp.float32(np.log(weights)), jnp.float32(means),
                         jnp.float32(np.linalg.cholesky(covariances)))


def test_log_prob_is_scipys_mixture_density():
    x, weights, means, covariances = _blobs(50)
    density = sum(w * scipy.stats.multivariate_normal(m, s).pdf(x)
                  for w, m, s in zip(weights, means, covariances, strict=True))
    log_p = jax.jit(gaussian_mixture(5).log_prob)(_mixture(weights, means, covariances), jnp.array(x))
    np.testing.assert_allclose(log_p, np.log(density), rtol=1e-4)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_log_prob_is_sklearns_at_its_parameters(covariance):
    x = _blobs(500)[0]
    fitted = GaussianMixture(5, covariance_type=covariance, random_state=0).fit(x)
    full = [np.diag(s) if covariance == "diag" else s for s in fitted.covariances_]
    params = _mixture(fitted.weights_, fitted.means_, np.stack(full))
    log_p = jax.jit(gaussian_mixture(5, covariance).log_prob)(params, jnp.array(x))
    np.testing.assert_allclose(log_p, fitted.score_samples(x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_likelihood_never_falls(covariance, seed):
    result = _em(_blobs(seed=seed, gap=1.0)[0], seed, covariance)  # overlapping: a long way to go
    gains = np.diff(result.log_likelihood)
    assert gains.min() >= -1e-5  # float32's rounding of a mean of about 5 nats
    assert 5 < result.iterations <= 200 and result.log_likelihood[-1] - result.log_likelihood[0] > 0.05
    assert np.all(gains[int(result.iterations):] == 0)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_trace_ends_at_the_likelihood_of_the_returned_mixture(covariance):
    x = jnp.array(_blobs()[0]) * jnp.array([1e3, 1.0, 1e-1, 1.0]) + 5.0
    result = _em(x, 0, covariance)
    log_p = gaussian_mixture(5, covariance).log_prob(result.params, x)
    np.testing.assert_allclose(result.log_likelihood[-1], log_p.mean(), atol=1e-2)
    if covariance == "diag":
        assert np.all(result.params.scale_tril * (1 - np.eye(4)) == 0)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_fit_is_as_likely_as_sklearns_best_of_several_starts(covariance):
    x = _blobs(seed=3, gap=2.0)[0]
    theirs = GaussianMixture(5, covariance_type=covariance, n_init=5, tol=1e-5, max_iter=300, random_state=0)
    best = theirs.fit(x).score(x)
    prior = gaussian_mixture(5, covariance)
    params = prior.fit(prior.init(jax.random.key(0), jnp.array(x)), jnp.array(x), jax.random.key(1))
    ours = float(jax.jit(prior.log_prob)(params, jnp.array(x)).mean())
    assert ours > best - 0.02
    assert float(theirs.score(x)) == pytest.approx(best)


def test_fit_recovers_planted_components():
    x, weights, means, covariances = _blobs(2000)
    params = _em(x).params
    order = np.argmin(np.linalg.norm(np.asarray(params.means)[:, None] - means, axis=-1), axis=0)
    assert sorted(order) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(np.exp(params.log_weights)[order], weights, atol=0.03)  # sd at most .01
    np.testing.assert_allclose(params.means[order], means, atol=0.3)  # sd at most .07
    np.testing.assert_allclose(_covariances(params)[order], covariances, atol=0.5)


def test_one_component_is_the_maximum_likelihood_gaussian_in_any_units():
    x = _blobs(300)[0] * np.float32([1e3, 1.0, 1e-3, 1.0]) + np.float32([1e4, -1.0, 0.1, 0.0])
    params = jax.jit(lambda x, k: em(x, k, 1, restarts=1).params)(jnp.array(x), jax.random.key(0))
    exact = np.cov(x.T.astype(np.float64), bias=True)
    sd = np.sqrt(np.diag(exact))
    np.testing.assert_allclose((params.means[0] - x.mean(0, dtype=np.float64)) / sd, 0, atol=1e-5)
    np.testing.assert_allclose((_covariances(params)[0] - exact) / np.outer(sd, sd), 0, atol=1e-4)


def test_sampler_has_the_mixtures_moments():
    _, weights, means, covariances = _blobs()
    prior, n = gaussian_mixture(5), 100_000
    z = np.asarray(jax.jit(prior.sample, static_argnums=2)(
        _mixture(weights, means, covariances), jax.random.key(0), n))
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(second.max() / n))
    np.testing.assert_allclose(np.cov(z.T), second - np.outer(mean, mean), atol=0.5)  # of about 20
    nearest = np.argmin(np.linalg.norm(z[:, None] - means, axis=-1), axis=1)
    for j in range(5):  # the blobs hardly overlap, so each has its own weight and spread
        inside = z[nearest == j]
        np.testing.assert_allclose(len(inside) / n, weights[j], atol=0.01)
        np.testing.assert_allclose(np.cov(inside.T), covariances[j], atol=0.1)


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("case", ["duplicates", "constant", "singular", "all equal", "as many as examples"])
def test_degenerate_data_survives_through_the_floor(covariance, case):
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    if case == "duplicates":
        x = x[np.arange(1000) % 3]
    elif case == "constant":
        x[:, 2] = 1234.567
    elif case == "singular":
        x[:, 3] = x[:, 0] - x[:, 1]
    elif case == "all equal":
        x[:] = 0.1
    else:
        x = x[:5]
    result = _em(x, 0, covariance, tol=1e-3)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))
    np.testing.assert_allclose(np.exp(result.params.log_weights).sum(), 1, atol=1e-5)
    least = np.linalg.eigvalsh(_covariances(result.params)).min()
    scale = np.where(x.std(0) > 1e-3, x.std(0), 1).min()
    assert least > 0.5e-6 * scale**2
    z = gaussian_mixture(5, covariance).sample(result.params, jax.random.key(1), 1000)
    spread = x.std(0) + 2e-3  # the floor's standard deviation is 1e-3
    assert np.all(np.abs(z - x.mean(0)) < 6 * spread)


def test_raising_eigenvalues_keeps_the_likelihood_monotone_where_the_floor_binds():
    x = _blobs(gap=1.0)[0]
    result = _em(x, 1, floor=0.3)
    assert np.diff(result.log_likelihood).min() >= -1e-5
    values = np.linalg.eigvalsh(_covariances(result.params) / np.outer(x.std(0), x.std(0)))
    assert values.min() == pytest.approx(0.3, rel=1e-3)


def test_restarts_keep_the_likeliest():
    x = _blobs(gap=1.0)[0]
    ends = np.array([[_em(x, seed, restarts=r).log_likelihood[-1] for r in (1, 4)] for seed in range(3)])
    gains = ends[:, 1] - ends[:, 0]
    # The first restart is the same, so more of them can only help; here they do.
    assert gains.min() >= -1e-5 and gains.max() > 1e-3


def test_mixtures_fit_side_by_side_as_alone():
    x, keys = jnp.array(_blobs()[0]), jax.random.split(jax.random.key(0), 2)
    prior = gaussian_mixture(5, restarts=1)
    fit = jax.jit(lambda k: prior.fit(prior.init(k, x), x, k))
    together = jax.jit(jax.vmap(fit))(keys)
    for i, key in enumerate(keys):
        alone = fit(key)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a, b[i], atol=1e-3)
    log_p = jax.jit(jax.vmap(prior.log_prob, (0, None)))(together, x)
    assert log_p.shape == (2, 1000)


def test_log_prob_has_the_mixtures_score():
    _, weights, means, covariances = _blobs()
    params, z = _mixture(weights, means, covariances), jnp.array([[0.5, -1.0, 2.0, 1.0]])
    score = jax.jit(jax.grad(lambda z: gaussian_mixture(5).log_prob(params, z).sum()))(z)[0]
    terms = np.array([w * scipy.stats.multivariate_normal(m, s).pdf(z[0])
                      for w, m, s in zip(weights, means, covariances, strict=True)])
    pulls = np.stack([np.linalg.solve(s, m - z[0]) for m, s in zip(means, covariances, strict=True)])
    np.testing.assert_allclose(score, terms / terms.sum() @ pulls, rtol=1e-3)


def test_initial_mixture_covers_the_data():
    x = jnp.array(_blobs(500)[0])
    prior = gaussian_mixture(7)
    params = jax.jit(prior.init)(jax.random.key(0), x[:3])  # fewer than components: shapes and scale suffice
    assert params.scale_tril.shape == (7, 4, 4)
    assert np.all(np.isfinite(jax.jit(prior.log_prob)(params, x)))
    np.testing.assert_allclose(np.exp(params.log_weights).sum(), 1, rtol=1e-5)


def test_mixture_refuses_what_it_cannot_fit():
    x, key = jnp.zeros((3, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="cannot fit 4 components to 3 examples"):
        em(x, key, 4)
    with pytest.raises(ValueError, match="components >= 1"):
        gaussian_mixture(0)
    with pytest.raises(ValueError, match="max_iters and restarts"):
        em(x, key, 2, restarts=0)
