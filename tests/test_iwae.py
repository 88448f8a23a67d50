"""Importance-weighted bounds and gradient estimators on linear-Gaussian models, whose likelihood is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec

from jaxae.distributions import normal_log_prob
from jaxae.losses.iwae import (
    ESTIMATORS,
    ciwae_bound,
    importance_weighted_loss,
    iwae_bound,
    miwae_bound,
    vae_k_bound,
)

# z ~ N(0, I_2), x | z ~ N(W z, .6^2 I_3), one x; q(z) = N(mean, diag std^2) is not the posterior.
W = np.array([[1.0, 0.4], [-0.3, 0.8], [0.5, 0.5]], np.float32)
X = np.array([0.8, -0.2, 1.1], np.float32)
LOG_NOISE = np.log(0.6)
LOG_PX = scipy.stats.multivariate_normal(np.zeros(3), W @ W.T + 0.36 * np.eye(3)).logpdf(X)
_PRECISION = W.T @ W / 0.36 + np.eye(2)
MEAN = (np.linalg.solve(_PRECISION, W.T @ X / 0.36) + np.array([0.2, -0.25])).astype(np.float32)
LOG_STD = (0.5 * np.log(np.diag(np.linalg.inv(_PRECISION))) + 0.15).astype(np.float32)


def log_w_fn(decoder, z, posterior):
    mean, log_std = posterior
    log_px = normal_log_prob(X, jnp.tanh(decoder["bend"]) * jnp.sin(z @ W.T) + z @ decoder["w"].T, LOG_NOISE).sum(-1)
    return log_px + (normal_log_prob(z, 0.0, 0.0) - normal_log_prob(z, mean, log_std)).sum(-1)


def noise(seed, k, n):
    return np.random.default_rng(seed).normal(size=(k, n, 2)).astype(np.float32)


def posterior(n):
    return np.broadcast_to(MEAN, (n, 2)), np.broadcast_to(LOG_STD, (n, 2))


def different_posteriors(n):
    return tuple(p + np.linspace(0.0, 1.0, n, dtype=np.float32)[:, None] for p in posterior(n))


DECODER = {"w": W, "bend": np.float32(0.0)}  # linear
BENT = {"w": W, "bend": np.float32(0.7)}


def surrogate(decoder, phi, eps, estimator, **options):
    mean, log_std = phi
    z = mean + jnp.exp(log_std) * eps
    return importance_weighted_loss(log_w_fn, decoder, z, phi, estimator, **options)


@partial(jax.jit, static_argnames=("estimator", "groups"))
def encoder_gradients(eps, estimator, groups=1):
    """One gradient by (mean, log std) of every repeat [n 4], to be maximized."""
    keyed = dict(key=jax.random.key(99)) if estimator == "sampled" else {}
    gradient = jax.grad(lambda phi: -surrogate(DECODER, phi, eps, estimator, groups=groups, **keyed).loss.sum())
    return jnp.concatenate(gradient(posterior(eps.shape[1])), 1)


def test_bounds_are_ordered_and_below_the_log_likelihood():
    @jax.jit
    def bounds(eps):
        phi = posterior(eps.shape[1])
        log_w = log_w_fn(DECODER, phi[0] + jnp.exp(phi[1]) * eps, phi)
        return [iwae_bound(log_w.reshape(k, -1)).mean() for k in (1, 5, 50)]

    l1, l5, l50 = bounds(noise(0, 50, 8000))
    assert l1 + 0.05 < l5 and l5 + 0.01 < l50 < LOG_PX + 2e-3
    assert LOG_PX - l50 < 0.02


def test_the_gap_falls_as_half_the_variance_of_the_weights_over_k():
    """z ~ N(0, 1), x | z ~ N(z, .5^2): 2 k (log p - L_k) -> Var(w) / p^2. The mean weight over p, whose expectation
    is one, serves as control variate: the gap is a thousandth of a nat."""
    x, mean, std, k = 0.7, 0.4, 0.5, 200
    log_px = scipy.stats.norm.logpdf(x, 0, np.sqrt(1.25))

    def squared_weight_density(z):
        log_w = scipy.stats.norm.logpdf(x, z, 0.5) + scipy.stats.norm.logpdf(z)
        return np.exp(2 * log_w - scipy.stats.norm.logpdf(z, mean, std) - 2 * log_px)

    variance = scipy.integrate.quad(squared_weight_density, -10, 10)[0] - 1.0

    @jax.jit
    def gap(key):
        z = mean + std * jax.random.normal(key, (k, 20000))
        log_w = (normal_log_prob(x, z, np.log(0.5)) + normal_log_prob(z, 0.0, 0.0)
                 - normal_log_prob(z, mean, np.log(std)))
        over = iwae_bound(log_w) - log_px
        return -(over - jnp.expm1(over)).mean()

    np.testing.assert_allclose(2 * k * gap(jax.random.key(1)), variance, rtol=0.05)


def test_miwae_and_ciwae_are_between_the_elbo_and_iwae_and_reduce_to_them():
    log_w = 2.0 * np.random.default_rng(2).normal(size=(6, 50)).astype(np.float32)
    grouped, iwae, elbo, combined = jax.jit(lambda v: ([miwae_bound(v.reshape(m, -1, 50)) for m in (1, 2, 6)],
                                                       iwae_bound(v), vae_k_bound(v), ciwae_bound(v, 0.3)))(log_w)
    np.testing.assert_allclose(grouped[0], iwae, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grouped[2], elbo, rtol=1e-5, atol=1e-6)
    w = np.exp(np.float64(log_w)).reshape(2, 3, 50)
    np.testing.assert_allclose(grouped[1], np.log(w.mean(1)).mean(0), rtol=1e-4, atol=1e-5)
    assert (np.asarray(elbo) < grouped[1]).all() and (np.asarray(grouped[1]) < iwae).all()
    np.testing.assert_allclose(elbo, log_w.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(combined, 0.3 * np.asarray(elbo) + 0.7 * np.asarray(iwae), rtol=1e-5, atol=1e-6)


@jax.jit
def jacobians(decoder, phi, eps):
    """Every log w_i, and its Jacobians by the decoder, through the samples, and through the density of q."""
    def paths(decoder, phi, held):
        return log_w_fn(decoder, phi[0] + jnp.exp(phi[1]) * eps, held)

    return paths(decoder, phi, phi), jax.jacrev(paths, (0, 1, 2))(decoder, phi, phi)


def brute_force(decoder, phi, eps, estimator, groups):
    """The estimator's gradients, multiplied by hand."""
    log_w, (by_decoder, by_z, by_density) = jax.tree.map(partial(np.asarray, dtype=np.float64),
                                                         jacobians(decoder, phi, eps))
    k, n = log_w.shape
    u = np.exp(log_w - log_w.max(0))
    grouped = u.reshape(groups, -1, n)
    within = (grouped / grouped.sum(1, keepdims=True)).reshape(k, n)
    a = {"vae": np.full((k, n), 1 / k), "piwae": u / u.sum(0)}.get(estimator, within / groups)
    b = {"dreg": within**2 / groups, "piwae": within / groups}.get(estimator, a)
    held = 0.0 if estimator in ("dreg", "stl") else 1.0
    decoder_gradient = jax.tree.map(lambda j: np.tensordot(a, j, 2), by_decoder)
    encoder_gradient = jax.tree.map(lambda z, q: np.tensordot(b, z + held * q, 2), by_z, by_density)
    return decoder_gradient, encoder_gradient


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "sampled"])
def test_gradients_are_those_of_the_formulas_and_the_value_is_the_bound(estimator, groups):
    eps, phi = noise(3, 6, 4), different_posteriors(4)
    scale = np.array([1.0, 2.0, 0.0, -0.5], np.float32)  # what training sends back to an example

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def gradients(decoder, phi):
        out = surrogate(decoder, phi, eps, estimator, groups=groups)
        return (out.loss * scale).sum(), out

    (_, out), (decoder, encoder) = gradients(BENT, phi)
    bound = {"vae": vae_k_bound(out.log_w), "piwae": iwae_bound(out.log_w)}.get(
        estimator, miwae_bound(out.log_w.reshape(groups, -1, 4)))
    np.testing.assert_allclose(out.loss, -bound, rtol=1e-5)
    def check(mine, want):
        np.testing.assert_allclose(mine, -want, rtol=2e-3, atol=1e-4)

    wanted = [brute_force(BENT, (phi[0][j:j + 1], phi[1][j:j + 1]), eps[:, j:j + 1], estimator, groups)
              for j in range(4)]
    jax.tree.map(check, decoder, jax.tree.map(lambda *g: np.tensordot(scale, np.stack(g), 1), *[w[0] for w in wanted]))
    for i in range(2):
        check(encoder[i], scale[:, None] * np.concatenate([w[1][i] for w in wanted]))


def test_decoder_gradients_of_iwae_dreg_stl_and_piwae_are_one():
    eps, phi = noise(4, 8, 5), posterior(5)
    gradient = {e: jax.jit(jax.grad(lambda d, e=e: surrogate(d, phi, eps, e).loss.sum()))(BENT)
                for e in ("iwae", "dreg", "stl", "piwae")}
    for name in ("dreg", "stl", "piwae"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                     gradient[name], gradient["iwae"])


def test_iwae_dreg_and_sampled_have_one_expectation_and_stl_another():
    eps = noise(5, 8, 20000)
    plain = np.asarray(encoder_gradients(eps, "iwae"), np.float64)

    def errors(estimator):
        """Of the mean, in its standard errors: the noise is the same, so differences are paired."""
        difference = np.asarray(encoder_gradients(eps, estimator), np.float64) - plain
        return np.abs(difference.mean(0)) / (difference.std(0) / np.sqrt(len(difference)))

    assert errors("dreg").max() < 3 and errors("sampled").max() < 3
    assert errors("stl").max() > 20
    # There is a gradient to be wrong about: tens of standard errors of the unpaired mean.
    assert (np.abs(plain.mean(0)) / plain.std(0) * np.sqrt(len(plain)))[:2].min() > 15


def test_sampled_averages_over_its_draws_to_iwae_for_the_same_samples():
    eps, phi = noise(6, 5, 3), posterior(3)

    def gradient(key):
        return jax.grad(lambda d, p: surrogate(d, p, eps, "sampled", key=key).loss.sum(), (0, 1))(BENT, phi)

    draws = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(7), 4000))
    plain = jax.grad(lambda d, p: -iwae_bound(log_w_fn(d, p[0] + jnp.exp(p[1]) * eps, p)).sum(), (0, 1))
    want = jax.jit(plain)(BENT, phi)
    for many, one in zip(jax.tree.leaves(draws), jax.tree.leaves(want), strict=True):
        many = np.asarray(many, np.float64)
        standard_error = many.std(0) / np.sqrt(4000) + 1e-6
        assert (np.abs(many.mean(0) - one) / standard_error).max() < 4  # of 21 numbers
    assert max(float(many.std(0).max()) for many in jax.tree.leaves(draws)) > 0.1


def test_signal_to_noise_of_the_encoder_falls_with_k_for_iwae_and_rises_for_dreg():
    def snr(estimator, k, n):
        """Of the gradient by the mean."""
        gradient = np.asarray(encoder_gradients(noise(k, k, n), estimator), np.float64)[:, :2]
        return np.abs(gradient.mean(0) / gradient.std(0)).mean()

    iwae = [snr("iwae", k, n) for k, n in ((1, 20000), (16, 20000), (256, 8000))]
    dreg = [snr("dreg", k, 2000) for k in (1, 16, 256)]
    assert iwae[0] > iwae[1] > 2 * iwae[2] and dreg[0] < dreg[1] < dreg[2]
    assert -0.65 < np.log(iwae[2] / iwae[0]) / np.log(256) < -0.3  # theory: -1/2
    assert 0.4 < np.log(dreg[2] / dreg[1]) / np.log(16) < 0.6  # theory: +1/2


def test_weights_a_hundred_nats_apart_lose_no_gradient():
    """piwae's second group is e^-200 of the whole, yet counts in full for the encoder; dreg stays finite."""
    def far(decoder, z, posterior):
        return -jnp.square(z[..., 0] - decoder) - 200.0 * jnp.array([0.0, 0.0, 1.0, 1.0])[:, None]

    def loss(mean, estimator, groups):
        z = mean + jnp.arange(4.0)[:, None, None]
        return importance_weighted_loss(far, jnp.zeros(()), z, mean, estimator, groups).loss.sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=(1, 2))
    mean = jnp.full((1, 1), 0.5)
    z = 0.5 + np.arange(4.0)
    u = np.exp(-np.array([z[0]**2, z[1]**2]))[:, None] / np.exp(-np.array([z[0]**2, z[1]**2])).sum()
    v = np.exp(-np.array([z[2]**2, z[3]**2])) / np.exp(-np.array([z[2]**2, z[3]**2])).sum()
    np.testing.assert_allclose(gradient(mean, "piwae", 2)[0, 0], u[:, 0] @ z[:2] + v @ z[2:], rtol=1e-5)
    np.testing.assert_allclose(gradient(mean, "dreg", 1)[0, 0], 2 * (u[:, 0] ** 2 @ z[:2]), rtol=1e-5)


def test_layers_of_latents_use_the_encoders_parameters_for_the_density():
    """q(h2 | h1) moves with h1 along the path of the samples and with the encoder along the other: dreg drops only the
    second. Against the Jacobian of that path alone."""
    eps = np.random.default_rng(8).normal(size=(2, 5, 3, 1)).astype(np.float32)
    phi = {"m": np.float32(0.3), "slope": np.float32(0.7)}

    def samples(phi):
        h1 = phi["m"] + eps[0]
        return h1, phi["slope"] * h1 + 0.5 * eps[1]

    def log_w(decoder, z, q):
        h1, h2 = z
        log_p = normal_log_prob(h2, 0.0, 0.0) + normal_log_prob(h1, decoder * h2, 0.0) + normal_log_prob(1.0, h1, 0.0)
        log_q = normal_log_prob(h1, q["m"], 0.0) + normal_log_prob(h2, q["slope"] * h1, np.log(0.5))
        return (log_p - log_q).sum(-1)

    decoder = np.float32(0.4)
    got = jax.jit(jax.grad(lambda phi: -importance_weighted_loss(log_w, decoder, samples(phi), phi, "dreg").loss.sum())
                  )(phi)
    u = jax.jit(lambda p: jax.nn.softmax(log_w(decoder, samples(p), p), 0))(phi)
    jacobian = jax.jit(jax.jacrev(lambda p: log_w(decoder, samples(p), phi)))(phi)
    for name in phi:
        np.testing.assert_allclose(got[name], (u**2 * jacobian[name]).sum(), rtol=1e-4)


def test_dreg_costs_one_forward_and_one_backward_pass_and_sampled_less():
    theta = [np.ones((2, 128), np.float32), np.ones((128, 3), np.float32)]

    def log_w(theta, z, q):
        return normal_log_prob(X, jnp.tanh(z @ theta[0]) @ theta[1], 0.0).sum(-1) - normal_log_prob(z, *q).sum(-1)

    def operations(estimator):
        def loss(theta, phi):
            z = phi[0] + jnp.exp(phi[1]) * noise(0, 32, 16)
            key = jax.random.key(0)
            return importance_weighted_loss(log_w, theta, z, phi, estimator, key=key).loss.mean()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(theta, posterior(16)).compile()
        return compiled.cost_analysis()["flops"]

    plain = operations("iwae")
    assert operations("dreg") < 1.05 * plain
    assert operations("sampled") < 0.6 * plain


def test_one_device_is_eight_for_the_draws_of_sampled():
    eps, phi = noise(10, 6, 16), different_posteriors(16)
    key = jax.random.key(11)

    def step(decoder, phi, eps, axis_name=None):
        def loss(decoder):
            out = surrogate(decoder, (phi[0] + decoder["bend"], phi[1]), eps, "sampled", key=key,
                            axis_name=axis_name)
            return out.loss.mean(), out.loss
        return jax.grad(loss, has_aux=True)(decoder)

    gradient, losses = jax.jit(step)(BENT, phi, eps)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, columns = PartitionSpec("d"), PartitionSpec(None, "d")
    spread = jax.device_put((phi, eps), (NamedSharding(mesh, rows), NamedSharding(mesh, columns)))
    mapped = jax.shard_map(
        lambda d, p, e: jax.tree.map(lambda g, spec: g if spec else jax.lax.pmean(g, "d"),
                                     step(d, p, e, "d"), ({"w": False, "bend": False}, True)),
        mesh=mesh, in_specs=(PartitionSpec(), rows, columns), out_specs=(PartitionSpec(), rows), check_vma=False)
    replicas = jax.pmap(lambda p, e: step(BENT, p, e, "d"), "d", in_axes=(0, 1))(
        jax.tree.map(lambda p: p.reshape(8, 2, 2), phi), eps.reshape(6, 8, 2, 2))
    pmapped = jax.tree.map(lambda g: g.mean(0), replicas[0]), replicas[1].reshape(-1)
    for other in (jax.jit(step)(BENT, *spread), jax.jit(mapped)(BENT, phi, eps), pmapped):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), (gradient, losses), other)


@pytest.mark.parametrize("check_vma", [False, True])
def test_dreg_scales_inside_shard_map_as_outside(check_vma):
    eps, phi = noise(12, 3, 8), different_posteriors(8)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, columns = PartitionSpec("d"), PartitionSpec(None, "d")
    step = jax.grad(lambda p, e: surrogate(BENT, p, e, "dreg").loss.sum())
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(rows, columns), out_specs=rows, check_vma=check_vma)
    for a, b in zip(jax.jit(mapped)(phi, eps), jax.jit(step)(phi, eps), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_bad_input_is_told_what_to_do():
    z, phi = jnp.zeros((4, 3, 2)), posterior(3)
    with pytest.raises(ValueError, match="choose one of iwae, dreg"):
        importance_weighted_loss(log_w_fn, DECODER, z, phi, "vimco")
    with pytest.raises(ValueError, match="groups=3 does not divide k=4"):
        importance_weighted_loss(log_w_fn, DECODER, z, phi, groups=3)
    with pytest.raises(ValueError, match="pass a key"):
        importance_weighted_loss(log_w_fn, DECODER, z, phi, "sampled")
    with pytest.raises(ValueError, match="sum over the latent"):
        importance_weighted_loss(lambda d, z, q: z, DECODER, z, phi)
