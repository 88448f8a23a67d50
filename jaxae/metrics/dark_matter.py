"""What sparse autoencoders leave over: the part of their error that is linear in the input, and the rest.

Reference: Engels, Smith, Tegmark, 'Decomposing the dark matter of sparse autoencoders', 2024, arXiv 2410.14670.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.metrics.sparse_codes import fvu


class Linear(NamedTuple):
    """y ~ x @ weight + bias."""

    weight: Float[Array, "d q"]
    bias: Float[Array, " q"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n q"]:
        return _product(x.astype(jnp.float32), self.weight) + self.bias


class ErrorDecomposition(NamedTuple):
    """Parts of the error of held-out examples, linear + nonlinear = x - xhat."""

    linear: Float[Array, "n d"]
    nonlinear: Float[Array, "n d"]
    r2_vector: Float[Array, ""]       # of the error, predicted linearly from x
    r2_norm: Float[Array, ""]         # of its squared norm, predicted linearly from x
    fvu: Float[Array, ""]
    fvu_nonlinear: Float[Array, ""]   # of the reconstruction plus the linear part of the error


class ActivationModel(NamedTuple):
    """Activations and reconstructions of which every term of the error is known."""

    x: Float[Array, "n d"]
    xhat: Float[Array, "n d"]
    missing: Float[Array, "n d"]      # of the features that the autoencoder has not learned
    dense: Float[Array, "n d"]
    introduced: Float[Array, "n d"]   # x - xhat = missing + dense - introduced


def fit_linear(x: Float[Array, "n d"], y: Float[Array, "p q"], ridge: float = 0.0) -> Linear:
    """Least squares with intercept, through the singular values of x: directions that x does not span get weight 0.

    Score it on other examples, and give at least 50 d of them: with n near d any target seems predictable.

    Args:
      x: inputs.
      y: targets.
      ridge: penalty ridge |W|^2 on the mean squared error of centred data.

    Returns:
      A `Linear`.

    Raises:
      ValueError: for different numbers of examples, or fewer than two.
    """
    if x.shape[0] != y.shape[0] or x.shape[0] < 2:
        raise ValueError(f"fit_linear wants a target for each of at least two examples; got {x.shape} and {y.shape}")
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, s, vt = jnp.linalg.svd(x - mean_x, full_matrices=False)
    spanned = s > s.max() * max(x.shape) * jnp.finfo(jnp.float32).eps
    inverse = jnp.where(spanned, s / (jnp.square(jnp.where(spanned, s, 1.0)) + ridge * x.shape[0]), 0.0)
    weight = _product(vt.T * inverse, _product(u.T, y - mean_y))
    return Linear(weight, mean_y - _product(mean_x[None], weight)[0])


def r2(y: Float[Array, "n q"], prediction: Float[Array, "p r"], per: str = "total") -> Float[Array, "*s"]:
    """1 - sum |y - prediction|^2 / sum |y - mean y|^2.

    Args:
      y: targets.
      prediction: of the same shape.
      per: 'total', over all coordinates; 'dimension', of each.

    Returns:
      A scalar, or `[q]`; NaN where y does not vary.

    Raises:
      ValueError: for shapes that differ or an unknown `per`.
    """
    if per not in ("total", "dimension"):
        raise ValueError(f"r2 is per 'total' or per 'dimension', not {per!r}")
    if y.shape != prediction.shape:
        raise ValueError(f"r2 wants predictions of the shape of y; got {y.shape} and {prediction.shape}")
    y = y.astype(jnp.float32)
    axis = None if per == "total" else 0
    return 1.0 - jnp.square(y - prediction).sum(axis) / jnp.square(y - y.mean(0)).sum(axis)


def decompose_error(x: Float[Array, "n d"], xhat: Float[Array, "p e"], split: int,
                    ridge: float = 0.0) -> ErrorDecomposition:
    """Splits the error x - xhat into what a linear map of x predicts and what it does not.

    The maps are fitted to the first `split` examples; everything returned is of the others.

    Args:
      x: activations, in random order; positions of a special kind with extreme norms (such as a text's first token)
        left out.
      xhat: the autoencoder's reconstructions.
      split: examples to fit on; at least 50 d for an honest R^2.
      ridge: of `fit_linear`.

    Returns:
      An `ErrorDecomposition`, n - split examples.

    Raises:
      ValueError: for shapes that differ, or a split that leaves fewer than two examples on a side.
    """
    if x.shape != xhat.shape or not 2 <= split <= x.shape[0] - 2:
        raise ValueError(f"decompose_error wants x and xhat of one shape and 2 <= split <= n - 2; got {x.shape}, "
                         f"{xhat.shape}, split={split}")
    x, error = x.astype(jnp.float32), (x - xhat).astype(jnp.float32)
    square = jnp.square(error).sum(1, keepdims=True)
    vector, norm = (fit_linear(x[:split], y[:split], ridge) for y in (error, square))
    rest, error, square, xhat = x[split:], error[split:], square[split:], xhat[split:]
    linear = vector(rest)
    return ErrorDecomposition(linear, error - linear, r2(error, linear), r2(square, norm(rest)), fvu(rest, xhat),
                              fvu(rest, xhat + linear))


def activation_model(key: Array, codes: Float[Array, "n m"], atoms: Float[Array, "m d"], drop_fraction: float = 0.0,
                     sigma_dense: float | Float[Array, ""] = 0.0, sigma_introduced: float | Float[Array, ""] = 0.0,
                     subspace: Float[Array, "r d"] | None = None) -> ActivationModel:
    """x = codes @ atoms + dense and a reconstruction of it that errs in known ways.

    The reconstruction has all but the rarest features, and noise of its own: xhat = kept @ atoms + introduced. A
    linear map of x can predict the dense term and what it knows of the missing one, not the introduced one.

    Args:
      key: for both noises.
      codes: true, or an autoencoder's, whose reconstruction is then the truth.
      atoms: their atoms.
      drop_fraction: share of the features, the rarest of those that fire, which the reconstruction misses.
      sigma_dense: standard deviation of the dense term's coordinates.
      sigma_introduced: of the introduced error's.
      subspace: orthonormal rows in which the dense term lies; None for the whole space.

    Returns:
      An `ActivationModel`.

    Raises:
      ValueError: for a drop_fraction outside [0, 1).
    """
    if not 0 <= drop_fraction < 1:
        raise ValueError(f"drop_fraction is a share of the features in [0, 1), got {drop_fraction}")
    n, m = codes.shape
    dense_key, own_key = jax.random.split(key)
    fired = (codes != 0).mean(0)
    rank = jnp.argsort(jnp.argsort(jnp.where(fired > 0, fired, jnp.inf)))
    dropped = rank < jnp.floor(drop_fraction * (fired > 0).sum() + 1e-4)
    missing = _product(jnp.where(dropped, codes, 0.0), atoms)
    kept = _product(jnp.where(dropped, 0.0, codes), atoms)
    directions = jnp.eye(atoms.shape[1]) if subspace is None else subspace
    dense = sigma_dense * _product(jax.random.normal(dense_key, (n, directions.shape[0])), directions)
    introduced = sigma_introduced * jax.random.normal(own_key, kept.shape)
    return ActivationModel(kept + missing + dense, kept + introduced, missing, dense, introduced)


def per_token_scaling(error_norms: Float[Array, "s n"]) -> Float[Array, "s s"]:
    """R^2 of predicting the log error norm of each example under one autoencoder linearly from that under another.

    Args:
      error_norms: |x - xhat| of n examples under s autoencoders, such as of several widths; above 0.

    Returns:
      Squared correlations of the logarithms `[s s]`, 1 on the diagonal.
    """
    logs = jnp.log(error_norms.astype(jnp.float32))
    logs = logs - logs.mean(1, keepdims=True)
    logs = logs / jnp.linalg.norm(logs, axis=1, keepdims=True)
    return jnp.square(_product(logs, logs.T))


def _product(a, b):
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
