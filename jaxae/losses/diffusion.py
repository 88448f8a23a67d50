"""Diffusion: noise schedules, losses and samplers as pure functions of a denoiser.

A schedule is `alpha_bar [T]`, float64 on the host, so that 1 - alpha_bar is exact where it is tiny; times t are
integers in [0, T), the last one nearly pure noise. A denoiser is `denoise(x_t [n ...], t [n]) -> output [n ...]`, an
estimate of what `predicts` names: 'epsilon' (the noise), 'x' (the data) or 'v'. It may return a pair (output, fraction)
of equal shapes: the second places the logarithm of a step's variance between its bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Real

from jaxae.distributions import normal_kl, normal_log_prob, sum_event

PREDICTIONS = ("epsilon", "x", "v")
FloatTable = Float[np.ndarray, " times"]


def linear_schedule(times: int = 1000) -> FloatTable:
    """alpha_bar_t = prod_{s <= t} (1 - beta_s) with beta linear from 1e-4 to 0.02, times 1000 / T, at most 0.999.

    Reference: Ho, Jain, Abbeel, 'Denoising diffusion probabilistic models', 2020, arXiv 2006.11239.
    """
    return np.cumprod(1.0 - np.minimum(np.linspace(1e-4, 0.02, times) * 1000.0 / times, 0.999))


def cosine_schedule(times: int = 1000, offset: float = 0.008) -> FloatTable:
    """alpha_bar_t = f(t + 1) / f(0) with f(t) = cos^2(pi/2 (t / T + offset) / (1 + offset)), each beta at most 0.999.

    Reference: Nichol, Dhariwal, 'Improved denoising diffusion probabilistic models', 2021, arXiv 2102.09672.
    """
    level = np.cos((np.arange(times + 1) / times + offset) / (1.0 + offset) * np.pi / 2.0) ** 2
    return np.cumprod(np.maximum(level[1:] / level[:-1], 0.001))


def diffuse(x: Float[Array, "n *d"], noise: Float[Array, "n *d"], t: Int[Array, " n"],
            alpha_bar: FloatTable) -> Float[Array, "n *d"]:
    """A draw of q(x_t | x): sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise.

    Args:
      x: data `[n ...]`.
      noise: standard normal, of the same shape.
      t: times `[n]` in [0, T).
      alpha_bar: of the schedule, `[T]`.

    Returns:
      x_t `[n ...]`.

    Reference: Ho, Jain, Abbeel, 2020, arXiv 2006.11239, equation 4.
    """
    signal, sigma = _levels(t, alpha_bar, x)
    return signal * x + sigma * noise


def target(x: Float[Array, "n *d"], noise: Float[Array, "n *d"], t: Int[Array, " n"], alpha_bar: FloatTable,
           predicts: str = "epsilon") -> Float[Array, "n *d"]:
    """What the denoiser estimates: the noise, x, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x.

    Reference: v is of Salimans, Ho, 'Progressive distillation', 2022, arXiv 2202.00512.
    """
    _check(predicts)
    signal, sigma = _levels(t, alpha_bar, x)
    return {"epsilon": noise, "x": x, "v": signal * noise - sigma * x}[predicts]


def estimate(output: Float[Array, "n *d"], x_t: Float[Array, "n *d"], t: Int[Array, " n"], alpha_bar: FloatTable,
             predicts: str = "epsilon") -> tuple[Float[Array, "n *d"], Float[Array, "n *d"]]:
    """Data and noise that an output of the denoiser stands for, the inverse of `target`. Nothing is clipped."""
    _check(predicts)
    signal, sigma = _levels(t, alpha_bar, x_t)
    if predicts == "epsilon":
        return (x_t - sigma * output) / signal, output
    if predicts == "x":
        return output, (x_t - signal * output) / sigma
    return signal * x_t - sigma * output, sigma * x_t + signal * output


def denoising_loss(denoise: Callable, x: Float[Array, "n *d"], noise: Float[Array, "n *d"], t: Int[Array, " n"],
                   alpha_bar: FloatTable, predicts: str = "epsilon", bound_weight: float = 0.001
                   ) -> Float[Array, " n"]:
    """|denoise(x_t, t) - target|^2, summed over the data dimensions; with t uniform, the simple loss of diffusion.

    Where the denoiser gives fractions, bound_weight * T * `variational_term` is added, which trains the fractions
    alone: the gradient of the output is stopped in it.

    Args:
      denoise: see the module. x: data; noise: standard normal, of the same shape; t: a time of each example.
      alpha_bar: the schedule; predicts: 'epsilon', 'x' or 'v'.
      bound_weight: lambda of the hybrid loss.

    Returns:
      The loss of each example, in squared units of the target.

    Reference: Ho et al., 2020, arXiv 2006.11239; hybrid: Nichol, Dhariwal, 2021, arXiv 2102.09672.

    >>> x, t = jnp.ones((2, 3)), jnp.array([0, 999])
    >>> denoising_loss(lambda x_t, t: jnp.zeros_like(x_t), x, x, t, cosine_schedule()).tolist()
    [3.0, 3.0]
    """
    x_t = diffuse(x, noise, t, alpha_bar)
    output, fraction = _pair(denoise(x_t, t))
    loss = sum_event(jnp.square(output - target(x, noise, t, alpha_bar, predicts)))
    if fraction is None:
        return loss
    term = variational_term(x, x_t, t, lax.stop_gradient(output), fraction, alpha_bar, predicts)
    return loss + bound_weight * len(alpha_bar) * term


def variational_term(x: Float[Array, "n *d"], x_t: Float[Array, "n *d"], t: Int[Array, " n"],
                     output: Float[Array, "n *d"], fraction: Float[Array, "n *d"], alpha_bar: FloatTable,
                     predicts: str = "epsilon") -> Float[Array, " n"]:
    """L_t = KL(q(x_{t-1} | x_t, x) || p(x_{t-1} | x_t)), and L_0 = -log p(x | x_0), one term of the variational bound.

    The model's variance is exp(f log beta_t + (1 - f) log beta~_t) with f = (fraction + 1) / 2, not clipped. Data are
    real vectors, so that L_0 is minus a log-density and may be negative.

    Returns:
      Nats of each example, summed over the data dimensions.

    Reference: Nichol, Dhariwal, 2021, arXiv 2102.09672, equations 4 to 6 and 15.
    """
    step = _Reverse(*(_at(table, t, x) for table in _reverse(alpha_bar, np.append(1.0, alpha_bar[:-1]))))
    mean = step.of_x * estimate(output, x_t, t, alpha_bar, predicts)[0] + step.of_x_t * x_t
    log_std = 0.5 * _log_variance(step, fraction)
    kl = normal_kl(step.of_x * x + step.of_x_t * x_t, 0.5 * step.log_small, mean, log_std)
    first = (t == 0).reshape(-1, *(1,) * (x.ndim - 1))
    return sum_event(jnp.where(first, -normal_log_prob(x, mean, log_std), kl))


def ddpm_sample(denoise: Callable, key: Array, x_last: Float[Array, "n *d"], alpha_bar: FloatTable, steps: int = 100,
                predicts: str = "epsilon", temperature: Real[ArrayLike, ""] = 1.0, variance: str = "small"
                ) -> Float[Array, "n *d"]:
    """Ancestral sampling on `steps` times evenly spaced in [0, T), from noise to data, without clipping.

        x_s = E[x_s | x_t, x = x^(x_t)] + temperature std_t noise,  and no noise in the last step

    Args:
      denoise: see the module; it is called with times of the whole schedule.
      key: of the injected noise; x_last: standard normal noise.
      alpha_bar, predicts: as in training.
      steps: number of calls of the denoiser, at most T.
      temperature: of the injected noise.
      variance: 'small' (that of q(x_s | x_t, x)) or 'large' (beta), for denoisers without fractions.

    Raises:
      ValueError: for steps outside [1, T] or an unknown variance.

    Reference: Ho et al., 2020, arXiv 2006.11239; respacing: Nichol, Dhariwal, 2021, arXiv 2102.09672; temperature:
    Li et al., 'Autoregressive image generation without vector quantization', 2024, arXiv 2406.11838.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance={variance!r} must be 'small' or 'large'")
    times, before = _respaced(alpha_bar, steps)

    def step(x_t, at):
        t, now, i = at
        rows = jnp.full(x_t.shape[:1], t)
        output, fraction = _pair(denoise(x_t, rows))
        x, _ = estimate(output, x_t, rows, alpha_bar, predicts)
        middle = {"small": -1.0, "large": 1.0}[variance] if fraction is None else fraction
        noise = jax.random.normal(jax.random.fold_in(key, i), x_t.shape) * jnp.exp(0.5 * _log_variance(now, middle))
        return now.of_x * x + now.of_x_t * x_t + jnp.where(i < steps - 1, temperature, 0.0) * noise, None

    tables = _Reverse(*(jnp.float32(table) for table in _reverse(alpha_bar[times], before)))
    return lax.scan(step, x_last, (jnp.int32(times), tables, jnp.arange(steps)))[0]


def ddim_sample(denoise: Callable, x_last: Float[Array, "n *d"], alpha_bar: FloatTable, steps: int = 100,
                predicts: str = "epsilon") -> Float[Array, "n *d"]:
    """Deterministic sampling: x_s = sqrt(alpha_bar_s) x^ + sqrt(1 - alpha_bar_s) noise^ on times as in `ddpm_sample`.

    Reference: Song, Meng, Ermon, 'Denoising diffusion implicit models', 2020, arXiv 2010.02502 (eta = 0).
    """
    times, before = _respaced(alpha_bar, steps)

    def step(x_t, at):
        t, signal, sigma = at
        rows = jnp.full(x_t.shape[:1], t)
        x, noise = estimate(_pair(denoise(x_t, rows))[0], x_t, rows, alpha_bar, predicts)
        return signal * x + sigma * noise, None

    tables = (jnp.int32(times), jnp.float32(np.sqrt(before)), jnp.float32(np.sqrt(1.0 - before)))
    return lax.scan(step, x_last, tables)[0]


def guide(conditional: Float[Array, "..."], unconditional: Float[Array, "..."],
          weight: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Classifier-free guidance, unconditional + weight (conditional - unconditional): 1 is none, 0 unconditional.

    Reference: Ho, Salimans, 'Classifier-free diffusion guidance', 2022, arXiv 2207.12598.
    """
    return unconditional + weight * (conditional - unconditional)


class _Reverse(NamedTuple):
    """q(x_s | x_t, x) = N(of_x x + of_x_t x_t, exp(log_small)); `log_large` is of beta."""

    of_x: Array
    of_x_t: Array
    log_small: Array
    log_large: Array


def _reverse(alpha_bar, before):
    """The tables of steps from noise levels `alpha_bar` to levels `before`, float64."""
    beta, noise = 1.0 - alpha_bar / before, 1.0 - alpha_bar
    small = beta * (1.0 - before) / noise
    # The last step's posterior has no spread: as in the paper, the log of the next one stands in.
    small = np.where(small > 0, small, np.min(small, initial=1.0, where=small > 0))
    return _Reverse(np.sqrt(before) * beta / noise, np.sqrt(1.0 - beta) * (1.0 - before) / noise,
                    np.log(small), np.log(beta))


def _log_variance(step, fraction):
    return 0.5 * ((1.0 + fraction) * step.log_large + (1.0 - fraction) * step.log_small)


def _respaced(alpha_bar, steps):
    """Times in the order of sampling, and alpha_bar of the time that follows each."""
    if not 1 <= steps <= len(alpha_bar):
        raise ValueError(f"steps={steps} must lie between 1 and the schedule's {len(alpha_bar)} times")
    times = np.round(np.linspace(len(alpha_bar) - 1, 0, steps)).astype(int)
    return times, np.append(alpha_bar[times[1:]], 1.0)


def _at(table, t, x):
    """table[t] as float32, shaped to multiply x."""
    return jnp.float32(table)[t].reshape(-1, *(1,) * (x.ndim - 1))


def _levels(t, alpha_bar, x):
    return _at(np.sqrt(alpha_bar), t, x), _at(np.sqrt(1.0 - alpha_bar), t, x)


def _pair(output):
    return output if isinstance(output, tuple) else (output, None)


def _check(predicts):
    if predicts not in PREDICTIONS:
        raise ValueError(f"predicts={predicts!r} must be one of {PREDICTIONS}")
