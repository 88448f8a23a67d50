"""Laws of autoencoders' sizes: the joint law of loss, latents and active latents, and Zipf's law of frequencies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Real


class ScalingLaw(NamedTuple):
    """L(n, k) = exp(a + b_k log k + b_n log n + g log k log n) + exp(zeta + eta log k)."""

    a: float
    b_k: float
    b_n: float
    g: float
    zeta: float
    eta: float

    def loss(self, n: Real[ArrayLike, "*s"], k: Real[ArrayLike, "*s"]) -> Float[Array | np.ndarray, "*s"]:
        """The loss that the law says, for n latents of which k are active."""
        log_n, log_k = np.log(np.asarray(n, np.float64)), np.log(np.asarray(k, np.float64))
        reducible = np.exp(self.a + self.b_k * log_k + self.b_n * log_n + self.g * log_k * log_n)
        return reducible + np.exp(self.zeta + self.eta * log_k)


class Zipf(NamedTuple):
    """Frequency proportional to (rank + beta)^-alpha, rank = 1, 2, ..."""

    alpha: float
    beta: float


def fit_scaling_law(n: Real[ArrayLike, " s"], k: Real[ArrayLike, " t"], loss: Float[ArrayLike, " u"],
                    starts: int = 24, seed: int = 0) -> ScalingLaw:
    """Fits the joint scaling law by least squares of the logarithm of the loss, from several starts.

    The two exponentials are told apart only if the first falls far over the range of n and the data reach the floor
    that the second is; look at the fit, not at its constants, where they do not.

    Args:
      n: latents of each autoencoder.
      k: active latents of each.
      loss: reconstruction loss of each, above 0.
      starts: random starts, of which the best fit is kept.
      seed: of the starts.

    Returns:
      A `ScalingLaw`.

    Raises:
      ValueError: for columns of different lengths, fewer than 6 autoencoders, or values not above 0.

    Reference: Gao et al., 'Scaling and evaluating sparse autoencoders', 2024, arXiv 2406.04093.
    """
    from scipy.optimize import least_squares

    n, k, loss = (np.asarray(v, np.float64) for v in (n, k, loss))
    if not n.shape == k.shape == loss.shape or n.size < 6 or min(n.min(), k.min(), loss.min()) <= 0:
        raise ValueError("fit_scaling_law wants at least 6 autoencoders, columns of one length and values above 0; got "
                         f"{n.shape}, {k.shape}, {loss.shape}")
    log_n, log_k, log_loss = np.log(n), np.log(k), np.log(loss)
    centre_n, centre_k = log_n.mean(), log_k.mean()
    u, v = log_n - centre_n, log_k - centre_k
    design = np.stack([np.ones_like(u), v, u, u * v], 1)

    def predict(p):
        return np.logaddexp(design @ p[:4], p[4] + p[5] * v)

    rng, best = np.random.default_rng(seed), None
    plain = np.linalg.lstsq(design, log_loss, rcond=None)[0]
    for floor in np.linspace(0.1, 0.9, starts):  # share of the least loss that is the floor
        rest = np.log(np.maximum(loss - floor * loss.min(), 1e-3 * loss.min()))
        first = np.linalg.lstsq(design, rest, rcond=None)[0] if rng.random() < 0.8 else plain
        start = [*first, np.log(floor * loss.min()), rng.uniform(-0.3, 0.0)]
        fit = least_squares(lambda p: predict(p) - log_loss, start, xtol=1e-12, ftol=1e-12, max_nfev=2000)
        best = fit if best is None or fit.cost < best.cost else best
    c0, ck, cn, g, zeta, eta = best.x  # of centred logarithms
    return ScalingLaw(float(c0 - ck * centre_k - cn * centre_n + g * centre_k * centre_n), float(ck - g * centre_n),
                      float(cn - g * centre_k), float(g), float(zeta - eta * centre_k), float(eta))


def fit_zipf(density: Float[ArrayLike, " m"]) -> Zipf:
    """Fits log density = c - alpha log(rank + beta) to the frequencies of the latents that fire, beta > -1.

    Args:
      density: share of the examples in which each latent is active, in any order.

    Returns:
      A `Zipf`.

    Raises:
      ValueError: if fewer than 3 latents fire.

    Reference: Ayonrinde, 'Adaptive sparse allocation with mutual choice and feature choice sparse autoencoders',
    2024, arXiv 2411.02124.
    """
    from scipy.optimize import least_squares

    density = np.sort(np.asarray(density, np.float64))[::-1]
    density = density[density > 0]
    if density.size < 3:
        raise ValueError(f"{density.size} latents fire: fit_zipf wants at least 3")
    rank, log_density = np.arange(1, density.size + 1), np.log(density)

    def residual(p):  # c, alpha, log(1 + beta)
        return p[0] - p[1] * np.log(rank - 1 + np.exp(p[2])) - log_density

    fits = [least_squares(residual, [log_density[0] + np.log1p(b), 1.0, np.log1p(b)]) for b in (0.0, 3.0, 10.0, 50.0)]
    best = min(fits, key=lambda fit: fit.cost)
    return Zipf(float(best.x[1]), float(np.expm1(best.x[2])))


def zipf_quotas(m: int, total: int, alpha: float = 1.0, beta: float = 7.0,
                most: int | None = None) -> Int[np.ndarray, " {m}"]:
    """Whole quotas proportional to (rank + beta)^-alpha that sum to `total`, none below 1.

    Args:
      m: latents, in the order of their ranks.
      total: the budget of a batch, k n.
      alpha: of the law; 0 gives equal quotas.
      beta: of the law.
      most: largest quota, the examples of a batch; None for no bound.

    Returns:
      Integers `[m]`, not increasing.

    Raises:
      ValueError: for a budget below m or above m most: no such quotas.

    >>> zipf_quotas(4, 12, alpha=1.0, beta=0.0).tolist()
    [6, 3, 2, 1]

    Reference: Ayonrinde, 2024, arXiv 2411.02124.
    """
    most = total if most is None else most
    if not m <= total <= m * most or m < 1:
        raise ValueError(f"quotas of 1 to {most} for {m} latents cannot sum to {total}: enlarge the batch or k")
    weight = (np.arange(1, m + 1) + beta) ** -alpha
    low, high = 0.0, total / weight.min()
    for _ in range(200):  # the factor with which the clipped quotas have the sum
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.clip(middle * weight, 1, most).sum() < total else (low, middle)
    quota = np.clip(high * weight, 1, most)
    whole = np.floor(quota + 1e-9).astype(np.int64)
    remainder = np.where(whole < most, quota - whole, -1.0)
    whole[np.argsort(-remainder, kind="stable")[:total - whole.sum()]] += 1
    return np.sort(whole)[::-1].copy()
