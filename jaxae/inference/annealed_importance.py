"""Annealed importance sampling with Hamiltonian transitions: ratios of normalisers, such as a decoder's likelihood."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LogDensity = Callable[[Array], Array]  # z [n d] -> [n] nats


class Annealed(NamedTuple):
    """Chains at the end of the path, all independent."""

    log_weights: Float[Array, " n"]  # nats; the mean of exp is the ratio of normalisers
    z: Float[Array, "n d"]
    acceptance: Float[Array, ""]  # share of accepted transitions


def annealed_importance_sampling(key: Array, z: Float[Array, "n d"], log_start: LogDensity, log_end: LogDensity,
                                 steps: int = 1000, leapfrog: int = 10, step_size: float = 0.1,
                                 adapt: bool = True) -> Annealed:
    """Weights of chains led from one density to another, log f_t = (1 - beta_t) log_start + beta_t log_end.

    log w = sum_t log f_t(z_t) - log f_{t-1}(z_t), with z_{t+1} by one Hamiltonian Monte Carlo transition that leaves
    f_t as it is. E[w] = Z_end / Z_start for any number of steps; the variance falls with it. Temperatures follow a
    sigmoid.

    Args:
      key: of the transitions.
      z: draws of the start density.
      log_start: log density up to a constant.
      log_end: the same of the end.
      steps: temperatures.
      leapfrog: leapfrog steps of a transition.
      step_size: of the leapfrog, of each chain at first.
      adapt: let each chain's step grow by 2% with every acceptance and shrink by 4% with every rejection. The weights
        are then not exactly unbiased; customary, and of little effect.

    Returns:
      `Annealed`. A scan over the temperatures: memory is that of one.

    Raises:
      ValueError: for fewer than 1 step of either kind, or a step size that is not positive.

    Reference: Neal, 'Annealed importance sampling', 2001; for decoders Wu, Burda, Salakhutdinov and Grosse, 'On the
    quantitative analysis of decoder-based generative models', ICLR 2017, arXiv 1611.04273.
    """
    if steps < 1 or leapfrog < 1 or step_size <= 0:
        raise ValueError("annealed importance sampling wants steps >= 1, leapfrog >= 1 and step_size > 0; got "
                         f"{steps}, {leapfrog}, {step_size}")
    ends = jax.nn.sigmoid(jnp.array([-4.0, 4.0]))
    beta = (jax.nn.sigmoid(jnp.linspace(-4.0, 4.0, steps + 1)) - ends[0]) / (ends[1] - ends[0])

    def density(z, beta):
        return (1.0 - beta) * log_start(z) + beta * log_end(z)

    def transition(z, size, beta, key):
        gradient = jax.grad(lambda z: density(z, beta).sum())
        velocity_key, accept_key = jax.random.split(key)
        velocity, step = jax.random.normal(velocity_key, z.shape), size[:, None]

        def leap(_, state):
            new, v = state
            new = new + step * v
            return new, v + step * gradient(new)

        # Half a step of velocity first; the last whole one is half undone.
        new, v = lax.fori_loop(0, leapfrog, leap, (z, velocity + 0.5 * step * gradient(z)))
        v = v - 0.5 * step * gradient(new)
        gain = density(new, beta) - density(z, beta) + 0.5 * jnp.sum(velocity**2 - v**2, -1)
        accepted = jnp.log(jax.random.uniform(accept_key, gain.shape)) < gain  # NaN is refused
        return jnp.where(accepted[:, None], new, z), accepted

    def anneal(carry, inputs):
        z, log_w, size = carry
        before, now, key = inputs
        log_w = log_w + (now - before) * (log_end(z) - log_start(z))
        z, accepted = transition(z, size, now, key)
        if adapt:
            size = jnp.clip(size * jnp.where(accepted, 1.02, 0.96), 1e-4, 0.5)
        return (z, log_w, size), accepted.mean()

    start = (z, jnp.zeros(z.shape[0]), jnp.full(z.shape[0], step_size))
    (z, log_w, _), accepted = lax.scan(anneal, start, (beta[:-1], beta[1:], jax.random.split(key, steps)))
    return Annealed(log_w, z, accepted.mean())


def annealed_log_likelihood(key: Array, log_px: LogDensity, n: int, d: int, chains: int = 16, steps: int = 1000,
                            leapfrog: int = 10, step_size: float = 0.1) -> Float[Array, " n"]:
    """log p(x) of a decoder with the prior N(0, I), a stochastic lower bound: log of the mean weight of its chains.

    Args:
      key: of prior draws and transitions.
      log_px: `z [chains*n d] -> [chains*n]`, log p(x | z) in nats; row i belongs to example i mod n.
      n: number of examples.
      d: dimension of z.
      chains: for each example.
      steps, leapfrog, step_size: see `annealed_importance_sampling`.

    Returns:
      Nats of each example.

    >>> def log_px(z):  # x = 0 from N(z, 1): log p(x) = log N(0; 0, 2)
    ...     return -0.5 * z[:, 0] ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    >>> value = annealed_log_likelihood(jax.random.key(0), log_px, 1, 1, chains=50, steps=50)
    >>> bool(abs(value[0] + 0.5 * jnp.log(4 * jnp.pi)) < 0.1)
    True

    Reference: Wu, Burda, Salakhutdinov and Grosse, ICLR 2017, arXiv 1611.04273.
    """
    draw_key, chain_key = jax.random.split(key)

    def log_prior(z):
        return -0.5 * jnp.sum(z**2, -1)

    found = annealed_importance_sampling(
        chain_key, jax.random.normal(draw_key, (chains * n, d)), log_prior, lambda z: log_prior(z) + log_px(z), steps,
        leapfrog, step_size)
    return jax.nn.logsumexp(found.log_weights.reshape(chains, n), axis=0) - math.log(chains)
