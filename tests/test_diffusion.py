"""Diffusion and flow matching against Gaussian data, whose optimal denoiser, flow and likelihood are closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxae.losses import diffusion, flow_matching

MEAN = np.array([1.0, -0.5])
# A correlated covariance with both eigenvalues below one, so that the best variance of a step lies between its bounds.
TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
EIGEN = np.array([0.64, 0.09])
COVARIANCE = TURN * EIGEN @ TURN.T
KEY = jax.random.key(6)
SCHEDULES = {"linear": diffusion.linear_schedule, "cosine": diffusion.cosine_schedule}


def optimal(alpha_bar, predicts="epsilon", variance=False):
    """The denoiser E[target | x_t] of N(MEAN, COVARIANCE), in the covariance's axes."""
    level = jnp.float32(alpha_bar)

    def denoise(x_t, t):
        a = level[t][:, None]
        signal, sigma2 = jnp.sqrt(a), jnp.float32(1 - alpha_bar)[t][:, None]
        spread = a * EIGEN + sigma2
        centred = (x_t - signal * MEAN) @ TURN
        x = MEAN + (signal * EIGEN / spread * centred) @ TURN.T
        noise = (jnp.sqrt(sigma2) / spread * centred) @ TURN.T
        return {"epsilon": noise, "x": x, "v": signal * noise - jnp.sqrt(sigma2) * x}[predicts]

    return denoise


def velocity(x, t):
    """E[x - noise | x_t] on straight paths."""
    t = t[:, None]
    spread = t**2 * EIGEN + (1 - t) ** 2
    return MEAN + ((t * EIGEN - (1 - t)) / spread * ((x - t * MEAN) @ TURN)) @ TURN.T


def assert_moments(samples, mean, covariance, scale=5.0):
    n = len(samples)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((samples.mean(0) - mean) / sd, 0, atol=scale / np.sqrt(n))
    np.testing.assert_allclose((np.cov(samples.T) - covariance) / np.outer(sd, sd), 0, atol=scale * np.sqrt(2 / n))


# ----------------------------------------------------------------------------------------- schedules


def test_schedules_are_the_papers_closed_forms():
    linear, cosine = diffusion.linear_schedule(), diffusion.cosine_schedule()
    beta = 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999
    np.testing.assert_allclose(linear, np.exp(np.cumsum(np.log1p(-beta))), rtol=1e-10)
    assert linear[-1] == pytest.approx(4.0e-5, rel=0.02)  # as the paper says, close to no signal
    t = np.arange(1, 1001) / 1000
    level = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine[:-1], level[:-1], rtol=1e-9)
    assert cosine[-1] == pytest.approx(0.001 * cosine[-2])  # the last beta is held at .999
    # Other numbers of times follow the same curve of noise over t / T.
    np.testing.assert_allclose(diffusion.linear_schedule(500)[249], linear[499], rtol=1e-2)
    np.testing.assert_allclose(diffusion.cosine_schedule(500)[249], cosine[499], rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffusing_at_once_is_noising_step_by_step(schedule):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise: the signal's factor and the noise's variance, exactly."""
    alpha_bar = SCHEDULES[schedule](1000)
    one, nothing, t = jnp.ones((1000, 1)), jnp.zeros((1000, 1)), jnp.arange(1000)
    diffuse = jax.jit(lambda x, noise: diffusion.diffuse(x, noise, t, alpha_bar)[:, 0])
    signal, sigma = np.asarray(diffuse(one, nothing)), np.asarray(diffuse(nothing, one))
    factor, variance = 1.0, 0.0
    for i in range(1000):
        alpha = alpha_bar[i] / (alpha_bar[i - 1] if i else 1.0)
        factor, variance = factor * np.sqrt(alpha), alpha * variance + 1.0 - alpha
        assert signal[i] == pytest.approx(factor, rel=1e-5) and sigma[i] ** 2 == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("predicts", diffusion.PREDICTIONS)
def test_estimate_inverts_target_at_every_time(predicts):
    alpha_bar = diffusion.linear_schedule(100)
    x, noise = np.random.default_rng(0).normal(size=(2, 100, 2, 3)).astype(np.float32)
    t = jnp.arange(100)

    @jax.jit
    def there_and_back(x, noise):
        x_t = diffusion.diffuse(x, noise, t, alpha_bar)
        return diffusion.estimate(diffusion.target(x, noise, t, alpha_bar, predicts), x_t, t, alpha_bar, predicts)

    for got, want in zip(there_and_back(x, noise), (x, noise), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-3 if predicts == "epsilon" else 1e-4)


# -------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("predicts", diffusion.PREDICTIONS)
def test_loss_of_the_optimal_denoiser_is_its_closed_form_and_the_least(predicts):
    alpha_bar, n = diffusion.linear_schedule(20), 40_000
    keys = jax.random.split(jax.random.key(1), 3)
    noise = jax.random.normal(keys[0], (n, 2))
    x = MEAN + (jax.random.normal(keys[1], (n, 2)) * np.sqrt(EIGEN)) @ TURN.T
    t = jnp.arange(n) % 20
    best = optimal(alpha_bar, predicts)
    loss = jax.jit(lambda denoise_shift: diffusion.denoising_loss(
        lambda x, t: best(x, t) + denoise_shift, x, noise, t, alpha_bar, predicts))
    now = np.asarray(loss(0.0)).reshape(-1, 20).mean(0)
    a, sigma2 = alpha_bar[:, None], 1 - alpha_bar[:, None]
    spread = a * EIGEN + sigma2
    exact = {"epsilon": a * EIGEN / spread, "x": EIGEN * sigma2 / spread, "v": EIGEN / spread}[predicts].sum(1)
    np.testing.assert_allclose(now, exact, rtol=0.12)
    np.testing.assert_allclose(now.mean(), exact.mean(), rtol=0.025)
    np.testing.assert_allclose(np.mean(loss(0.1)) - now.mean(), 2 * 0.1**2, atol=5e-3)


def _kl_by_quadrature(mean, std, mean2, std2):
    points = mean + std * np.linspace(-12, 12, 20_001)
    log_p = scipy.stats.norm.logpdf(points, mean, std)
    return np.trapezoid(np.exp(log_p) * (log_p - scipy.stats.norm.logpdf(points, mean2, std2)), points)


def test_variational_terms_are_the_divergences_of_bayes_posteriors():
    """q(x_{t-1} | x_t, x) by Bayes' rule from the forward process, the divergence by quadrature."""
    alpha_bar = diffusion.cosine_schedule(8)
    rng = np.random.default_rng(2)
    x, x_t, output, fraction = rng.normal(size=(4, 8, 2)).astype(np.float32)
    t = jnp.arange(8)
    got = jax.jit(lambda *a: diffusion.variational_term(*a, alpha_bar))(x, x_t, t, output, fraction)
    before = np.append(1, alpha_bar[:-1])
    for i in range(8):
        a, b, alpha = alpha_bar[i], before[i], alpha_bar[i] / before[i]

        def posterior(x0, i=i, a=a, b=b, alpha=alpha):
            """Mean and variance of N(x_{t-1}; sqrt(b) x0, 1-b) N(x_t; sqrt(alpha) x_{t-1}, 1-alpha), normalized."""
            precision = 1 / (1 - b) + alpha / (1 - alpha)
            return (np.sqrt(b) * x0 / (1 - b) + np.sqrt(alpha) * x_t[i] / (1 - alpha)) / precision, 1 / precision

        guess = (x_t[i] - np.sqrt(1 - a) * output[i]) / np.sqrt(a)
        share = (fraction[i] + 1) / 2
        if i == 0:
            low = (1 - alpha_bar[1] / a) * (1 - a) / (1 - alpha_bar[1])
            std = np.sqrt((1 - alpha) ** share * low ** (1 - share))
            want = -scipy.stats.norm.logpdf(x[i], guess, std).sum()
        else:
            mean, variance = posterior(x[i])
            mean2, _ = posterior(guess)
            std = np.sqrt((1 - alpha) ** share * variance ** (1 - share))
            want = sum(_kl_by_quadrature(mean[j], np.sqrt(variance), mean2[j], std[j]) for j in range(2))
        np.testing.assert_allclose(got[i], want, rtol=2e-4, atol=1e-4)


def test_hybrid_loss_trains_the_output_on_the_simple_loss_and_the_fraction_on_the_bound():
    alpha_bar = diffusion.cosine_schedule(10)
    rng = np.random.default_rng(3)
    x, noise, output, fraction = jnp.float32(rng.normal(size=(4, 10, 2)))
    t = jnp.arange(10)

    @jax.jit
    def gradients(output, fraction):
        hybrid = jax.grad(lambda o, f: diffusion.denoising_loss(
            lambda *_: (o, f), x, noise, t, alpha_bar, bound_weight=0.3).sum(), (0, 1))(output, fraction)
        simple = jax.grad(lambda o: diffusion.denoising_loss(lambda *_: o, x, noise, t, alpha_bar).sum())(output)
        x_t = diffusion.diffuse(x, noise, t, alpha_bar)
        bound = jax.grad(lambda f: diffusion.variational_term(x, x_t, t, output, f, alpha_bar).sum())(fraction)
        return hybrid, simple, bound

    hybrid, simple, bound = gradients(output, fraction)
    np.testing.assert_allclose(hybrid[0], simple, rtol=1e-6)
    np.testing.assert_allclose(hybrid[0], 2 * (output - noise), rtol=1e-5)
    np.testing.assert_allclose(hybrid[1], 0.3 * 10 * bound, rtol=1e-5)
    assert np.abs(bound).min() > 0


def test_flow_matching_loss_of_the_optimal_velocity_is_its_closed_form():
    n = 100_000
    keys = jax.random.split(jax.random.key(4), 3)
    noise, t = jax.random.normal(keys[0], (n, 2)), jax.random.uniform(keys[2], (n,))
    x = MEAN + (jax.random.normal(keys[1], (n, 2)) * np.sqrt(EIGEN)) @ TURN.T
    loss = jax.jit(lambda x, noise, t: flow_matching.flow_matching_loss(velocity, x, noise, t))(x, noise, t)
    grid = np.linspace(0, 1, 10_001)[:, None]
    spread = grid**2 * EIGEN + (1 - grid) ** 2  # Var[x - noise] minus what x_t explains of it
    exact = np.trapezoid((EIGEN / spread).sum(1), grid[:, 0])
    assert float(loss.mean()) == pytest.approx(exact, abs=5 * float(loss.std()) / np.sqrt(n))


# ------------------------------------------------------------------------------------------ samplers


def _with_best_variance(alpha_bar, steps):
    """Isotropic data N(1, .64 I): the optimal epsilon with the fractions that make each respaced step exact."""
    times = np.round(np.linspace(len(alpha_bar) - 1, 0, steps)).astype(int)
    a, b = alpha_bar[times], np.append(alpha_bar[times[1:]], 1)
    beta, small = 1 - a / b, (1 - a / b) * (1 - b) / (1 - a)
    left = 0.64 * (1 - a) / (a * 0.64 + 1 - a)  # Var[x | x_t]
    exact = small + (np.sqrt(b) * beta / (1 - a)) ** 2 * left
    small[-1] = small[-2]
    share = np.log(exact / small) / np.log(beta / small)
    fractions = np.full(len(alpha_bar), np.nan)
    fractions[times] = 2 * share - 1
    level = jnp.float32(alpha_bar)

    def denoise(x_t, t):
        a, sigma2 = level[t][:, None], jnp.float32(1 - alpha_bar)[t][:, None]
        epsilon = jnp.sqrt(sigma2) / (a * 0.64 + sigma2) * (x_t - jnp.sqrt(a))
        return epsilon, jnp.broadcast_to(jnp.float32(fractions)[t][:, None], x_t.shape)

    return denoise


@pytest.mark.parametrize("steps", [5, 30])
def test_ddpm_with_the_best_learned_variance_is_exact_in_any_number_of_steps(steps):
    alpha_bar, n = diffusion.linear_schedule(), 20_000
    start = jax.random.normal(jax.random.key(5), (n, 2))
    samples = np.asarray(jax.jit(lambda key, x: diffusion.ddpm_sample(
        _with_best_variance(alpha_bar, steps), key, x, alpha_bar, steps))(KEY, start))
    # The last step injects none of Var[x | x_0], which is 1e-4.
    assert_moments(samples, np.ones(2), 0.64 * np.eye(2))


@pytest.mark.parametrize("predicts, variance", [("epsilon", "small"), ("x", "large"), ("v", "small")])
def test_ddpm_with_the_optimal_denoiser_draws_the_data(predicts, variance):
    alpha_bar, n = diffusion.cosine_schedule(), 4000
    start = jax.random.normal(jax.random.key(7), (n, 2))
    samples = np.asarray(jax.jit(lambda key, x: diffusion.ddpm_sample(
        optimal(alpha_bar, predicts), key, x, alpha_bar, 100, predicts, variance=variance))(KEY, start))
    assert_moments(samples, MEAN, COVARIANCE, 6.0)  # and a bias of a few hundredths


def test_temperature_scales_the_injected_noise():
    """The variance of a linear sampler follows a recursion: x_s = slope x_t + temperature std noise."""
    alpha_bar, steps, n = diffusion.linear_schedule(), 20, 10_000
    times = np.round(np.linspace(999, 0, steps)).astype(int)
    a, b = alpha_bar[times], np.append(alpha_bar[times[1:]], 1)
    beta, small = 1 - a / b, (1 - a / b) * (1 - b) / (1 - a)
    slope = (np.sqrt(b) * beta * np.sqrt(a) * EIGEN[:, None] / (a * EIGEN[:, None] + 1 - a)
             + np.sqrt(1 - beta) * (1 - b)) / (1 - a)
    start = jax.random.normal(jax.random.key(9), (n, 2))
    sample = jax.jit(lambda key, x, temperature: diffusion.ddpm_sample(
        optimal(alpha_bar), key, x, alpha_bar, steps, temperature=temperature))
    for temperature in (1.0, 0.5, 0.0):
        variance = np.ones(2)
        for i in range(steps):
            variance = slope[:, i] ** 2 * variance + temperature**2 * small[i]
        samples = np.asarray(sample(KEY, start, temperature)) @ TURN
        np.testing.assert_allclose(samples.var(0), variance, rtol=5 * np.sqrt(2 / n))
    again = np.asarray(sample(jax.random.key(11), start, 0.0)) @ TURN
    np.testing.assert_array_equal(again, samples)  # nothing is injected at 0


def test_ddim_approaches_the_optimal_map_between_gaussians():
    alpha_bar = diffusion.linear_schedule(8000)
    start = jax.random.normal(jax.random.key(12), (50, 2))
    exact = MEAN + (start @ TURN * np.sqrt(EIGEN)) @ TURN.T
    errors = [np.abs(jax.jit(lambda x, steps=steps: diffusion.ddim_sample(
        optimal(alpha_bar), x, alpha_bar, steps))(start) - exact).max() for steps in (20, 80, 320)]
    assert errors[2] < 0.02 and errors[0] / errors[1] > 2.5 and errors[1] / errors[2] > 2.5  # first order


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_flow_is_the_optimal_map_and_its_likelihood_the_gaussians_to_the_methods_order(method, order):
    start = jax.random.normal(jax.random.key(13), (20, 2))
    exact = MEAN + (start @ TURN * np.sqrt(EIGEN)) @ TURN.T
    log_p = scipy.stats.multivariate_normal(MEAN, COVARIANCE).logpdf(exact)
    errors = []
    for steps in (20, 80):
        moved, found = jax.jit(lambda x, y, steps=steps: (
            flow_matching.flow_sample(velocity, x, steps, method),
            flow_matching.flow_log_prob(velocity, y, steps, method)))(start, exact)
        errors.append((np.abs(moved - exact).max(), np.abs(found - log_p).max()))
    ratio = np.array(errors[0]) / np.array(errors[1])
    assert np.all(ratio > 4**order * 0.6) and np.all(ratio < 4**order * 1.7)
    assert np.max(errors[1]) < (0.3 if order == 1 else 4e-3)


def test_guidance_of_one_is_none_and_of_zero_unconditional():
    conditional, unconditional = jnp.array([[2.0]]), jnp.array([[-1.0]])
    assert [float(diffusion.guide(conditional, unconditional, w)[0, 0]) for w in (0.0, 1.0, 3.0)] == [-1.0, 2.0, 8.0]


def test_what_cannot_be_is_refused():
    x, t, alpha_bar = jnp.zeros((2, 3)), jnp.zeros(2, int), diffusion.linear_schedule(10)
    with pytest.raises(ValueError, match="predicts='score'"):
        diffusion.target(x, x, t, alpha_bar, "score")
    with pytest.raises(ValueError, match="steps=11 must lie between 1 and the schedule's 10"):
        diffusion.ddim_sample(lambda x, t: x, x, alpha_bar, 11)
    with pytest.raises(ValueError, match="'small' or 'large'"):
        diffusion.ddpm_sample(lambda x, t: x, jax.random.key(0), x, alpha_bar, 5, variance="huge")
    with pytest.raises(ValueError, match="'euler' or 'heun'"):
        flow_matching.flow_sample(lambda x, t: x, x, method="rk9")
