"""Divergences between Gaussians given by standard deviations or Cholesky factors: KL and 2-Wasserstein."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def cholesky_kl(mean: Float[Array, "n d"], factor: Float[Array, "n d d"], mean2: Float[Array, "#n d"] | None = None,
                factor2: Float[Array, "#n d d"] | None = None) -> Float[Array, " n"]:
    """KL(N(mean, L L^T) || N(mean2, L2 L2^T)); by default to the standard normal.

    (|L2^-1 L|_F^2 + |L2^-1 (mean - mean2)|^2 - d) / 2 + sum_i log(L2_ii / L_ii), by one triangular solve.

    For diagonal covariances `gaussian_kl` is quicker.

    Args:
      mean: means.
      factor: L, lower triangular with a positive diagonal; what is above the diagonal is not looked at.
      mean2: means `[n d]`, or `[1 d]` for one second Gaussian.
      factor2: L2 `[n d d]` or `[1 d d]`.

    Returns:
      Nats of each pair `[n]`.

    Raises:
      ValueError: for shapes that do not fit.

    >>> cholesky_kl(jnp.ones((1, 2)), jnp.eye(2)[None]).tolist()
    [1.0]

    Reference: Kingma and Welling, 'An introduction to variational autoencoders', 2019, arXiv 1906.02691, section 2.5.1.
    """
    mean, mean2, factor, factor2 = _prepare(mean, factor, mean2, factor2, triangular=True)
    offset = mean - (0.0 if mean2 is None else mean2)
    d = mean.shape[1]
    logdet = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1)
    both = jnp.concatenate([factor, offset[:, :, None]], 2)
    if factor2 is not None:
        factor2 = jnp.broadcast_to(factor2, factor.shape)
        logdet = logdet - jnp.log(jnp.diagonal(factor2, axis1=1, axis2=2)).sum(1)
        both = lax.linalg.triangular_solve(factor2, both, left_side=True, lower=True)
    return 0.5 * (jnp.square(both).sum((1, 2)) - d) - logdet


def gaussian_wasserstein(mean: Float[Array, "n d"], scale: Float[Array, "n d"] | Float[Array, "n d d"],
                         mean2: Float[Array, "#n d"] | None = None,
                         scale2: Float[Array, "#n d"] | Float[Array, "#n d d"] | None = None) -> Float[Array, " n"]:
    """Squared 2-Wasserstein distance of N(mean, L L^T) and N(mean2, L2 L2^T), exact; by default to N(0, I).

    |mean - mean2|^2 + |L|_F^2 + |L2|_F^2 - 2 |L2^T L|_*, with the nuclear norm (sum of singular values) in the place of
    Bures' trace of a matrix root: no root is taken, so that its gradient stays finite for equal eigenvalues. To the
    standard normal: |mean|^2 + sum_i (sigma_i - 1)^2 over the singular values of L. For standard deviations:
    |mean - mean2|^2 + |scale - scale2|^2.

    It takes a singular value decomposition of each example; `wasserstein_to_standard` bounds it from above without.

    Args:
      mean: means.
      scale: standard deviations `[n d]`, or any matrices L `[n d d]` with covariance L L^T, say Cholesky factors.
      mean2: means `[n d]`, or `[1 d]` for one second Gaussian.
      scale2: in the form of `scale`, for n or one Gaussian.

    Returns:
      Of each pair `[n]`, summed over the dimensions.

    Raises:
      ValueError: for shapes that do not fit.

    >>> gaussian_wasserstein(jnp.full((1, 2), 3.0), 2.0 * jnp.eye(2)[None]).round(3).tolist()
    [20.0]

    Reference: Olkin and Pukelsheim, 'The distance between two random vectors with given dispersion matrices', 1982;
    in an autoencoder: Janjos, Rosenbaum, Dolgov, Zollner, 'Unscented autoencoder', 2023, arXiv 2306.05256.
    """
    mean, mean2, scale, scale2 = _prepare(mean, scale, mean2, scale2, triangular=False)
    between = jnp.square(mean - (0.0 if mean2 is None else mean2)).sum(1)
    if scale.ndim == 2:
        return between + jnp.square(scale - (1.0 if scale2 is None else scale2)).sum(1)
    if scale2 is None:
        return between + jnp.square(jnp.linalg.svd(scale, compute_uv=False) - 1.0).sum(1)
    product = jnp.einsum("nki,nkj->nij", jnp.broadcast_to(scale2, scale.shape), scale, precision=lax.Precision.HIGHEST)
    nuclear = jnp.linalg.svd(product, compute_uv=False).sum(1)
    return between + jnp.square(scale).sum((1, 2)) + jnp.square(scale2).sum((1, 2)) - 2.0 * nuclear


def _prepare(mean, scale, mean2, scale2, triangular):
    """All in float32 at least, checked."""
    n, d = mean.shape
    forms = ((n, d, d),) if triangular else ((n, d), (n, d, d))
    fits = scale.shape in forms
    fits &= mean2 is None or mean2.shape in ((n, d), (1, d))
    fits &= scale2 is None or scale2.shape in (scale.shape, (1, *scale.shape[1:]))
    if not fits:
        shapes = [None if a is None else a.shape for a in (scale, mean2, scale2)]
        raise ValueError(f"means {mean.shape} want a scale of shape {' or '.join(map(str, forms))}, and a second "
                         f"Gaussian of the same form or one for all; got {shapes}")
    arrays = [None if a is None else a.astype(jnp.promote_types(a.dtype, jnp.float32))
              for a in (mean, mean2, scale, scale2)]
    return (*arrays[:2], *(None if a is None else jnp.tril(a) if triangular else a for a in arrays[2:]))
