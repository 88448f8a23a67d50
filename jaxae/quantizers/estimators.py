"""Gradients past a quantizer: the value of the code, and a path from the decoder's gradient to the encoder."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_TINY = 1e-6  # length of a vector that has no direction
_CLOSE = 1e-3  # length of e^ + q^ (or e^ - q^) that float32 does not know the direction of well enough


def straight_through(z: Float[Array, "*n d"], z_q: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """The value of `z_q` with the gradient of `z`: z + sg[z_q - z].

    Args:
      z: encoder outputs `[... d]`.
      z_q: what they were quantized to, of the same shape; gets no gradient.

    Returns:
      `[... d]`, equal to `z_q` up to rounding.

    Reference: Bengio, Leonard, Courville, 'Estimating or propagating gradients through stochastic neurons', 2013,
    arXiv 1308.3432.
    """
    return z + lax.stop_gradient(z_q - z)


def rotate_to(z: Float[Array, "*n d"], z_q: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """The value of `z_q`, with a gradient that turns and stretches with the move from z to it.

    With e = z, q = z_q, unit vectors e^ and q^ and r = (e^ + q^) / |e^ + q^|,

        q = sg[|q| / |e| R] e,   R = I - 2 r r^T + 2 q^ e^T,

    R the rotation of the plane of e and q that takes e^ to q^. So the gradient g at q arrives at e as
    |q| / |e| R^T g, at the same angle to e as g has to q: points of one cell are pushed apart or together, where
    `straight_through` moves them all alike. No matrix is made: two dot products for each vector.

    The gradient is straight-through where no rotation is defined or float32 cannot tell it: |e| or |q| under 1e-6,
    e^ within 1e-3 of -q^. Past that |q| / |e| is not bounded: keep the encoder's outputs away from 0, and do not
    sample codes at a temperature with it, since distant codes stand at obtuse angles.

    Args:
      z: encoder outputs `[... d]`.
      z_q: what they were quantized to, of the same shape, before any estimator of its own; gets no gradient.

    Returns:
      `[... d]`, exactly `z_q`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> z, z_q = jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])  # a quarter turn to the left, and twice as long
      >>> jax.vjp(lambda z: rotate_to(z, z_q), z)[1](z_q)[0].round(4).tolist()  # g along q comes back along e
      [4.0, 0.0]

    Reference: Fifty, Junkins, Duan, Iyengar, Liu, Amid, Thrun, Re, 'Restructuring vector quantization with the
    rotation trick', 2024, arXiv 2410.06424.
    """
    e, unit_e, unit_q, scale, defined = _directions(z, z_q)
    r, far = _unit(unit_e + unit_q, _CLOSE)
    turned = e - 2.0 * _dot(r, e) * r + 2.0 * _dot(unit_e, e) * unit_q
    return _with_path(z_q, jnp.where(defined & far, scale * turned, e))


def householder_to(z: Float[Array, "*n d"], z_q: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """The value of `z_q`, with the gradient of the reflection that takes z to it: `rotate_to`'s control.

    q = sg[|q| / |e| H] e with H = I - 2 v v^T and v = (e^ - q^) / |e^ - q^|. H e^ = q^ as for the rotation, but
    its determinant is -1: what is orthogonal to v keeps its sign, what is along v loses it, however near e is to q.
    Straight-through where |e| or |q| is under 1e-6 or e^ within 1e-3 of q^.

    Args:
      z: encoder outputs `[... d]`.
      z_q: what they were quantized to, of the same shape; gets no gradient.

    Returns:
      `[... d]`, exactly `z_q`.

    Reference: Fifty et al., 2024, arXiv 2410.06424, appendix.
    """
    e, unit_e, unit_q, scale, defined = _directions(z, z_q)
    v, far = _unit(unit_e - unit_q, _CLOSE)
    return _with_path(z_q, jnp.where(defined & far, scale * (e - 2.0 * _dot(v, e) * v), e))


def rotation_matrix(e: Float[Array, " d"], q: Float[Array, " d"]) -> Float[Array, "d d"]:
    """The rotation in the plane of e and q that takes e / |e| to q / |q|: R = I - 2 r r^T + 2 q^ e^T.

    For looking at and for tests; `rotate_to` does without the matrix. NaN for vectors of length 0 and for q
    opposite to e, where there is no one rotation.

    Args:
      e: a vector `[d]`.
      q: a vector `[d]`.

    Returns:
      `[d d]`, orthogonal, of determinant 1, the identity on the orthogonal complement of the plane.

    Reference: Fifty et al., 2024, arXiv 2410.06424.
    """
    unit_e, unit_q = e / jnp.linalg.norm(e), q / jnp.linalg.norm(q)
    r = (unit_e + unit_q) / jnp.linalg.norm(unit_e + unit_q)
    return jnp.eye(e.shape[0]) - 2.0 * jnp.outer(r, r) + 2.0 * jnp.outer(unit_q, unit_e)


ESTIMATORS: dict[str, Callable[[Array, Array], Array]] = {
    "straight_through": straight_through, "rotation": rotate_to, "householder": householder_to}


def estimator_of(name: str) -> Callable[[Array, Array], Array]:
    """The gradient estimator `(z [... d], z_q [... d]) -> z_q [... d]` of that name.

    Raises:
      ValueError: for a name that is not in `ESTIMATORS`.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"no gradient estimator '{name}': choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def _directions(z, z_q):
    """e with its path, and without paths: unit vectors, |q| / |e|, and where they are defined."""
    e = z.astype(jnp.float32)
    fixed, q = lax.stop_gradient(e), lax.stop_gradient(z_q).astype(jnp.float32)
    (unit_e, has_e), (unit_q, has_q) = _unit(fixed, _TINY), _unit(q, _TINY)
    return e, unit_e, unit_q, _dot(unit_q, q) / jnp.where(has_e, _dot(unit_e, fixed), 1.0), has_e & has_q


def _unit(x, least):
    """x / |x| and whether |x| exceeds `least`; x itself where it does not."""
    length = jnp.sqrt(_dot(x, x))
    long = length > least
    return x / jnp.where(long, length, 1.0), long


def _dot(a, b):
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _with_path(value, path):
    """The value exactly, with the gradient of `path`."""
    return lax.stop_gradient(value) + (path - lax.stop_gradient(path)).astype(value.dtype)
