"""Approximate posteriors q(z | x): what an encoder's output means.

Flows (planar, inverse autoregressive) have parameters of their own: `Posterior.init` makes them and
`Posterior.bind(params)` gives the posterior at them. The others are what they are.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxae import collectives
from jaxae.distributions import normal_kl, normal_log_prob, normal_sample
from jaxae.losses import cholesky_from_correlations, cholesky_kl
from jaxae.nn import IAF, PlanarFlow
from jaxae.priors import DiagonalMixture, diagonal_mixture_log_prob, diagonal_mixture_sample

KINDS = ("diagonal", "full", "point", "mixture", "planar", "iaf")


class Posterior(NamedTuple):
    """A family of distributions on latents `z [n d]`, by an encoder's output `out [n outputs]`.

    Densities are in nats per example, summed over the latent's dimensions.
    """

    size: int  # d
    outputs: int  # width of `out`
    sample: Callable[..., Array]  # (out, key, axis_name) -> z, reparameterized
    mean: Callable[[PyTree], Array]  # out -> z: what `encode` gives
    log_prob: Callable[[PyTree, Array], Array] | None  # (out, z) -> [n]; None for a point
    kl: Callable[[PyTree], Array] | None = None  # out -> [n]: closed form of KL(q || N(0, I)) where there is one
    kl_each: Callable[[PyTree], Array] | None = None  # out -> [n d]: the same by dimension, for independent ones
    log_std: Callable[[PyTree], Array] | None = None  # out -> [n d]: of each dimension
    factor: Callable[[PyTree], Array] | None = None  # out -> [n d d]: the Cholesky factor of a full covariance
    own: Callable[..., tuple[Array, Array]] | None = None  # (out, key, axis_name) -> z and log q of these draws alone
    init: Callable[[Array], PyTree] | None = None  # key -> its own parameters
    bind: Callable[[PyTree], "Posterior"] | None = None  # parameters -> the posterior at them

    def draw(self, out: PyTree, key: Array, axis_name: str | None = None) -> tuple[Array, Array | None]:
        """z [n d] and log q(z | x) [n] of these draws, None for a point."""
        if self.own is not None:
            return self.own(out, key, axis_name)
        z = self.sample(out, key, axis_name)
        return z, None if self.log_prob is None else self.log_prob(out, z)

    @property
    def has_density(self) -> bool:
        """Whether its draws have a density at all: not those of a point."""
        return self.log_prob is not None or self.own is not None or self.bind is not None


def posterior(kind: str, d: int, components: int = 4, layers: int = 4, features: tuple[int, ...] = (64,)) -> Posterior:
    """The posterior of a name: 'diagonal' and 'full' Gaussians, a 'mixture' of diagonal ones, Gaussians moved by a
    'planar' or inverse autoregressive flow ('iaf'), or a 'point' (a deterministic encoder).

    Args:
      kind: one of `KINDS`.
      d: dimension of the latent.
      components: of a mixture.
      layers: of a flow.
      features: hidden widths of an inverse autoregressive flow; the last is that of its context.

    Raises:
      ValueError: for another name.
    """
    if kind == "point":
        return Posterior(d, d, lambda out, key, axis_name=None: out, lambda out: out, None)
    if kind == "mixture":
        return mixture(d, components)
    if kind == "planar":
        return moved(d, PlanarFlow(layers), features[-1])
    if kind == "iaf":
        return moved(d, IAF(layers, features), features[-1])
    if kind not in KINDS:
        raise ValueError(f"model.posterior={kind!r} must be one of {', '.join(KINDS)}")
    return diagonal(d) if kind == "diagonal" else full(d)


def diagonal(d: int) -> Posterior:
    """N(mean, diag std^2) from `out = (mean, log std)`."""
    def parts(out):
        return jnp.split(out, 2, axis=-1)

    def kl_each(out):
        return normal_kl(*parts(out))

    return Posterior(d, 2 * d, lambda out, key, axis_name=None: normal_sample(key, *parts(out), axis_name=axis_name),
                     lambda out: parts(out)[0],
                     lambda out, z: normal_log_prob(z, *parts(out)).sum(-1),
                     lambda out: kl_each(out).sum(-1), kl_each, lambda out: parts(out)[1])


def full(d: int) -> Posterior:
    """N(mean, L L^T) from `out = (mean, log diagonal of L, the rest of L row by row)`."""
    rows, columns = jnp.tril_indices(d, -1)

    def factor(out):
        _, log_diagonal, rest = jnp.split(out, (d, 2 * d), axis=-1)
        lower = jnp.zeros((*out.shape[:-1], d, d), out.dtype).at[..., rows, columns].set(rest)
        return lower + jnp.exp(log_diagonal)[..., None] * jnp.eye(d)

    return _cholesky(d, factor)


def correlated(d: int) -> Posterior:
    """N(mean, L L^T) from `out = (mean, log std, r)` with L_ii = s_i and L_ij = tanh(r_ij) s_i s_j, as in the unscented
    autoencoder (`jaxae.losses.cholesky_from_correlations`)."""
    def factor(out):
        _, log_std, rest = jnp.split(out, (d, 2 * d), axis=-1)
        return cholesky_from_correlations(log_std, jnp.tanh(rest))

    return _cholesky(d, factor)


def _cholesky(d: int, factor: Callable[[Array], Array]) -> Posterior:
    """N(mean, L L^T) with L from `factor(out)`, whose diagonal is the exponential of the second d outputs."""
    def parts(out):
        return out[..., :d], out[..., d:2 * d], factor(out)

    def sample(out, key, axis_name=None):
        mean, _, lower = parts(out)
        noise = collectives.draw(jax.random.normal, key, mean.shape, axis_name)
        return mean + jnp.einsum("...ij,...j->...i", lower, noise)

    def log_prob(out, z):
        mean, log_diagonal, lower = parts(out)
        whitened = jax.scipy.linalg.solve_triangular(lower, (z - mean)[..., None], lower=True)[..., 0]
        return -0.5 * (whitened**2).sum(-1) - log_diagonal.sum(-1) - 0.5 * d * math.log(2.0 * math.pi)

    return Posterior(d, 2 * d + d * (d - 1) // 2, sample, lambda out: out[..., :d], log_prob,
                     lambda out: cholesky_kl(out[..., :d], factor(out)), None,
                     lambda out: 0.5 * jnp.log((factor(out) ** 2).sum(-1)), factor)


def mixture(d: int, components: int) -> Posterior:
    """sum_k w_k N(mean_k, diag std_k^2) from `out = (logits, means, log stds)`; the gradient of its draws is exact
    (`jaxae.priors.diagonal_mixture_sample`).

    Raises:
      ValueError: for fewer than 1 component.
    """
    if components < 1:
        raise ValueError(f"model.components={components} must be at least 1")

    def parts(out):
        logits, rest = out[..., :components], out[..., components:].reshape(*out.shape[:-1], 2, components, d)
        return DiagonalMixture(logits, rest[..., 0, :, :], rest[..., 1, :, :])

    def mean(out):
        q = parts(out)
        return jnp.einsum("...k,...kd->...d", jax.nn.softmax(q.logits), q.means)

    def log_std(out):
        q = parts(out)
        second = jnp.einsum("...k,...kd->...d", jax.nn.softmax(q.logits), q.means**2 + jnp.exp(2.0 * q.log_std))
        return 0.5 * jnp.log(jnp.maximum(second - mean(out) ** 2, 1e-12))

    return Posterior(d, components * (1 + 2 * d),
                     lambda out, key, axis_name=None: diagonal_mixture_sample(key, parts(out), axis_name),
                     mean, lambda out, z: diagonal_mixture_log_prob(z, parts(out)), log_std=log_std)


def moved(d: int, flow: PlanarFlow | IAF, context: int) -> Posterior:
    """A diagonal Gaussian's draw moved by a flow that reads `context` outputs of the encoder: `out = (mean, log std,
    context)`. log q(z) = log q_0(z_0) - log det is known at its own draws only; `mean` is the moved mean of z_0.

    Reference: Rezende and Mohamed 2015, arXiv 1505.05770; Kingma et al. 2016, arXiv 1606.04934.
    """
    base = diagonal(d)

    def bind(params):
        def own(out, key, axis_name=None):
            z = base.sample(out[..., :2 * d], key, axis_name)
            new = flow.apply({"params": params}, z, out[..., 2 * d:])
            return new.z, base.log_prob(out[..., :2 * d], z) - new.log_det

        def mean(out):
            return flow.apply({"params": params}, out[..., :d], out[..., 2 * d:]).z

        return unbound._replace(own=own, sample=lambda out, key, axis_name=None: own(out, key, axis_name)[0],
                                mean=mean, bind=None)

    def missing(*args, **kwargs):
        raise ValueError("a flow posterior needs its parameters: use what `Posterior.bind(params)` gives")

    unbound = Posterior(d, 2 * d + context, missing, missing, None, bind=bind,
                        init=lambda key: flow.init(key, jnp.zeros((1, d)), jnp.zeros((1, context)))["params"])
    return unbound
