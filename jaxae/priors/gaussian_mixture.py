"""Gaussian mixture prior on continuous latents, fitted by expectation-maximisation."""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from jaxae.priors.base import Prior
from jaxae.quantizers.vector import nearest_code

_LOG_2PI = 1.8378770664093453


class MixtureParams(NamedTuple):
    """A mixture of k Gaussians; component j has covariance `scale_tril[j] @ scale_tril[j].T`.

    Fields:
      log_weights: logarithms of the weights, which sum to one.
      means: centres.
      scale_tril: lower Cholesky factors, diagonal matrices for a diagonal mixture.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    scale_tril: Float[Array, "k d d"]


class EMResult(NamedTuple):
    """What EM found, and how it got there.

    Fields:
      params: the mixture.
      log_likelihood: mean nats per example before each update and after the last, then repeated.
      iterations: updates made.
      converged: whether the gain fell below the tolerance before the iterations ran out.
    """

    params: MixtureParams
    log_likelihood: Float[Array, " t"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def gaussian_mixture(
    components: int,
    covariance: Literal["full", "diag"] = "full",
    max_iters: int = 200,
    tol: float = 1e-5,
    floor: float = 1e-6,
    restarts: int = 4,
) -> Prior:
    """Prior on vectors, a mixture of Gaussians fitted by EM.

        p(z) = sum_j w_j N(z; m_j, L_j L_j^T)

    Args:
      components: number of Gaussians k; 1 gives the maximum-likelihood Gaussian.
      covariance: `full` or `diag`.
      max_iters, tol, floor, restarts: see `em`.

    Returns:
      A `Prior` on float latents `[n d]` (flatten maps first) with `MixtureParams`. `init` places components
      at random within the data's scale; `fit` replaces them by the result of `em`. Labels are ignored.

    Raises:
      ValueError: for latents that are not vectors, an unknown covariance, or fewer latents than components.

    Reference: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977;
    on an autoencoder's latents: Ghosh, Sajjadi, Vergari, Black, Scholkopf, "From variational to
    deterministic autoencoders", 2020, arXiv 1903.12436.

    >>> prior = gaussian_mixture(2)
    >>> z = jnp.concatenate([jax.random.normal(jax.random.key(0), (50, 3)), jnp.ones((50, 3)) * 9])
    >>> params = prior.fit(prior.init(jax.random.key(1), z), z, jax.random.key(2))
    >>> jnp.exp(params.log_weights).round(3).tolist()
    [0.5, 0.5]
    >>> prior.sample(params, jax.random.key(3), 4).shape, prior.log_prob(params, z).shape
    ((4, 3), (100,))
    """
    _check_options(components, covariance)

    def init(key: Array, latents: Float[Array, "n d"],
             label: Int[Array, " n"] | None = None) -> MixtureParams:
        del label
        x, shift, scale = _standardise(latents)
        means = jax.random.normal(key, (components, x.shape[1]))
        weights = jnp.full(components, -jnp.log(float(components)))
        tril = jnp.broadcast_to(jnp.eye(x.shape[1]), (components, x.shape[1], x.shape[1]))
        return MixtureParams(weights, shift + scale * means, scale[:, None] * tril)

    def log_prob(params: MixtureParams, latents: Float[Array, "n d"], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        del label, key
        return logsumexp(_log_joint(params, latents.astype(jnp.float32)), axis=0)

    def sample(params: MixtureParams, key: Array, n: int,
               label: Int[Array, " n"] | None = None) -> Float[Array, "n d"]:
        del label
        key_component, key_noise = jax.random.split(key)
        j = jax.random.categorical(key_component, params.log_weights, shape=(n,))
        noise = jax.random.normal(key_noise, (n, params.means.shape[1]))
        return params.means[j] + jnp.einsum("nij,nj->ni", params.scale_tril[j], noise)

    def fit(params: MixtureParams, latents: Float[Array, "n d"], key: Array) -> MixtureParams:
        del params
        return em(latents, key, components, covariance, max_iters, tol, floor, restarts).params

    return Prior(init, log_prob, sample, fit)


@partial(jax.jit, static_argnames=("components", "covariance", "max_iters", "restarts"))
def em(
    x: Float[Array, "n d"],
    key: Array,
    components: int,
    covariance: Literal["full", "diag"] = "full",
    max_iters: int = 200,
    tol: float | Float[Array, ""] = 1e-5,
    floor: float | Float[Array, ""] = 1e-6,
    restarts: int = 4,
) -> EMResult:
    """Maximum-likelihood Gaussian mixture by expectation-maximisation.

        r_ij = w_j N(x_i; m_j, S_j) / p(x_i)
        w_j = sum_i r_ij / n,  m_j = sum_i r_ij x_i / (n w_j),
        S_j = sum_i r_ij (x_i - m_j)(x_i - m_j)^T / (n w_j), its eigenvalues raised to at least `floor`

    Raising the eigenvalues is the exact maximiser under the constraint `S_j >= floor`, so the likelihood
    never falls, as it may when `floor` is added to the diagonal. Dimensions are standardised before and
    restored after, so units do not matter; a constant dimension keeps its unit. Each restart begins with
    greedy k-means++, ten rounds of k-means and an M-step on its clusters; the likeliest result is returned.

    Args:
      x: the whole set, float.
      key: for the restarts.
      components: k, at most n.
      covariance: `full` or `diag`.
      max_iters: most updates per restart.
      tol: stop when an update gains less than this, in mean nats per example.
      floor: least eigenvalue (`diag`: variance) of a component, where each dimension of `x` has variance one.
      restarts: independent starts.

    Returns:
      An `EMResult` with the trace of `max_iters + 1` mean log-likelihoods, in nats per example.

    Raises:
      ValueError: for `x` not `[n d]`, an unknown covariance, or more components than examples.

    Reference: Dempster, Laird, Rubin, 1977; k-means++: Arthur, Vassilvitskii, "k-means++: the advantages of
    careful seeding", 2007.

    >>> x = jax.random.normal(jax.random.key(0), (200, 2))
    >>> result = em(x, jax.random.key(1), components=1)
    >>> bool(jnp.allclose(result.params.means[0], x.mean(0), atol=1e-5)), bool(result.converged)
    (True, True)
    """
    _check_options(components, covariance)
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"em needs float vectors [n d]; got {x.dtype} {x.shape}. Flatten maps first.")
    if components > x.shape[0]:
        raise ValueError(f"em cannot fit {components} components to {x.shape[0]} examples; "
                         "give it more examples or ask for fewer components.")
    if max_iters < 1 or restarts < 1:
        raise ValueError(f"em needs max_iters and restarts >= 1; got {max_iters} and {restarts}.")
    x, shift, scale = _standardise(x)
    floor = jnp.asarray(floor, jnp.float32)

    def start(key: Array) -> EMResult:
        params = _plus_plus(key, x, components, covariance, floor)
        joint = _log_joint(params, x)  # [k n]
        trace = jnp.zeros(max_iters + 1).at[0].set(logsumexp(joint, axis=0).mean())

        def going(carry: tuple) -> Array:
            _, _, _, t, done = carry
            return (t < max_iters) & ~done

        def update(carry: tuple) -> tuple:
            params, joint, trace, t, _ = carry
            params = _m_step(params, x, jax.nn.softmax(joint, axis=0), covariance, floor)
            joint = _log_joint(params, x)
            now = logsumexp(joint, axis=0).mean()
            return params, joint, trace.at[t + 1].set(now), t + 1, now - trace[t] < tol

        carry = params, joint, trace, jnp.array(0), jnp.array(False)
        params, _, trace, t, done = lax.while_loop(going, update, carry)
        trace = jnp.where(jnp.arange(max_iters + 1) > t, trace[t], trace)
        return EMResult(params, trace, t, done)

    # One restart after the other: each stops at its own convergence, and memory does not grow.
    results = lax.map(lambda i: start(jax.random.fold_in(key, i)), jnp.arange(restarts))
    best = jnp.argmax(results.log_likelihood[:, -1])
    result = jax.tree.map(lambda leaf: leaf[best], results)
    weights, means, tril = result.params
    params = MixtureParams(weights, shift + scale * means, scale[:, None] * tril)
    return result._replace(params=params, log_likelihood=result.log_likelihood - jnp.log(scale).sum())


def _check_options(components: int, covariance: str) -> None:
    if covariance not in ("full", "diag"):
        raise ValueError(f"covariance must be 'full' or 'diag'; got {covariance!r}.")
    if components < 1:
        raise ValueError(f"a mixture needs components >= 1; got {components}.")


def _standardise(x: Array) -> tuple[Array, Array, Array]:
    x = x.astype(jnp.float32)
    shift = x.mean(0)
    x = x - shift
    correction = x.mean(0)  # the first mean's rounding, which matters far from the origin
    x, shift = x - correction, shift + correction
    std = jnp.sqrt(jnp.square(x).mean(0))
    # What is left of a constant dimension is rounding; it must not be blown up to variance one.
    scale = jnp.where(std > 1e-6 * jnp.abs(shift), std, 1.0)
    return x / scale, shift, scale


def _log_joint(params: MixtureParams, x: Array) -> Array:
    """log w_j + log N(x_i; m_j, S_j), `[k n]`; one component after the other, so memory stays at n d."""
    def one(component: MixtureParams) -> Array:
        log_weight, mean, tril = component
        y = solve_triangular(tril, (x - mean).T, lower=True)  # [d n]
        log_det = jnp.log(jnp.diagonal(tril)).sum()
        return log_weight - 0.5 * (jnp.square(y).sum(0) + x.shape[1] * _LOG_2PI) - log_det

    return lax.map(one, params)


def _m_step(old: MixtureParams, x: Array, resp: Array, covariance: str, floor: Array) -> MixtureParams:
    def one(args: tuple) -> tuple:
        r, old_mean, old_tril = args
        total = r.sum()
        weight = r / jnp.maximum(total, 1e-10)
        mean = weight @ x
        centred = x - mean
        if covariance == "diag":
            tril = jnp.diag(jnp.sqrt(jnp.maximum(weight @ jnp.square(centred), floor)))
        else:
            values, vectors = jnp.linalg.eigh((centred * weight[:, None]).T @ centred)
            # S = V l V^T = R^T R for the QR factor R of sqrt(l) V^T.  Cholesky of S itself would lose
            # eigenvalues near the floor to float32's rounding.
            root = jnp.linalg.qr((vectors * jnp.sqrt(jnp.maximum(values, floor))).T, mode="r")
            tril = (root * jnp.sign(jnp.diagonal(root))[:, None]).T
        # An emptied component has no maximiser of its own: it stays where it was.
        alive = total > 1e-6
        return total, jnp.where(alive, mean, old_mean), jnp.where(alive, tril, old_tril)

    totals, means, trils = lax.map(one, (resp, old.means, old.scale_tril))
    log_weights = jnp.log(jnp.maximum(totals, 1e-10))
    return MixtureParams(log_weights - logsumexp(log_weights), means, trils)


def _plus_plus(key: Array, x: Array, components: int, covariance: str, floor: Array) -> MixtureParams:
    """k-means++ centres, a few rounds of k-means, then one M-step on the hard assignments."""
    d = x.shape[1]
    trials = 2 + int(math.log(components))

    def add(nearest: Array, key: Array) -> tuple[Array, Array]:
        # Where every example already is a centre (duplicates), the tiny constant makes the draw uniform.
        tried = x[jax.random.categorical(key, jnp.log(nearest + 1e-30), shape=(trials,))]
        distances = lax.map(lambda c: jnp.minimum(nearest, jnp.square(x - c).sum(1)), tried)  # [trials n]
        best = jnp.argmin(distances.sum(1))
        return distances[best], tried[best]

    def assign(centres: Array) -> Array:
        return (nearest_code(x, centres) == jnp.arange(components)[:, None]).astype(x.dtype)  # [k n]

    def move(_: Array, centres: Array) -> Array:
        resp = assign(centres)
        count = resp.sum(1, keepdims=True)
        return jnp.where(count > 0, resp @ x / jnp.maximum(count, 1), centres)

    _, centres = lax.scan(add, jnp.full(x.shape[0], 1e30), jax.random.split(key, components))
    centres = lax.fori_loop(0, 10, move, centres)
    resp = assign(centres)
    eye = jnp.broadcast_to(jnp.eye(d), (components, d, d))
    return _m_step(MixtureParams(jnp.zeros(components), centres, eye), x, resp, covariance, floor)
