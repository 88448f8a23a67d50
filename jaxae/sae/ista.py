"""Sparse codes by proximal gradients: iterative soft thresholding."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def soft_threshold(z: Float[Array, "..."], t: Float[Array, ""] | float) -> Float[Array, "..."]:
    """sign(z) max(|z| - t, 0) by element: the proximal map of t |z|, argmin_u (u - z)^2 / 2 + t |u|.

    Args:
      z: of any shape.
      t: threshold in the units of z, a scalar of at least 0 (not checked: it may be traced).

    Returns:
      Of the shape of z; the gradient is 0 where |z| < t.

    Reference: Daubechies, Defrise, De Mol, 2004, arXiv math/0307152.

    >>> soft_threshold(jnp.array([-2.0, 0.5, 3.0]), 1.0).tolist()
    [-1.0, 0.0, 2.0]
    """
    return jnp.sign(z) * jnp.maximum(jnp.abs(z) - t, 0.0)


def curvature(atoms: Float[Array, "m d"]) -> Float[Array, ""]:
    r"""$\lambda_{\max}(D D^\top)$ of atoms D `[m d]`, a scalar, exact, by the smaller of the two Gram matrices.

    Half of the largest curvature of |x - z D|^2 in z: what 1 / (step size) has to reach for `ista`.
    """
    gram = atoms @ atoms.T if atoms.shape[0] <= atoms.shape[1] else atoms.T @ atoms
    return jnp.linalg.eigvalsh(gram)[-1]


def ista(x: Float[Array, "n d"], atoms: Float[Array, "m d"], mu: Float[Array, ""] | float,
         steps: int, start: Float[Array, "n m"] | None = None) -> Float[Array, "n m"]:
    r"""Steps towards $\min_z \|x - z D\|^2 + \mu |z|_1$: $z \leftarrow S_{\mu / 2a}(z + (x - z D) D^\top / a)$.

    Args:
      x: examples.
      atoms: D.
      mu: weight of the absolute values.
      steps: of the iteration; none raises the objective.
      start: codes to begin with; None is zero.

    Reference: Daubechies, Defrise and De Mol, An iterative thresholding algorithm for linear inverse problems with a
    sparsity constraint, 2004.
    """
    scale = curvature(atoms)
    begin = jnp.zeros((x.shape[0], atoms.shape[0]), x.dtype) if start is None else start
    return lax.fori_loop(0, steps, lambda _, z: soft_threshold(z + (x - z @ atoms) @ atoms.T / scale,
                                                               mu / (2.0 * scale)), begin)


def proximal_gradient(smooth: Callable[[Array], Array], value: Float[Array, "..."], rate: Float[Array, ""],
                      prox: Callable[[Array, Array], Array], steps: int = 1) -> Float[Array, "..."]:
    r"""$v \leftarrow \mathrm{prox}(v - \nabla f(v) / L, L)$ with an L for which the step's quadratic bound holds.

    Each step minimises a majoriser of f + g, so that none raises it.

    Args:
      smooth: f.
      value: v, to begin with.
      rate: L to begin each step with, such as the Lipschitz constant of the gradient at its best; doubled until f is
        below its bound.
      prox: `(v, L) -> argmin_u g(u) + L |u - v|^2 / 2`.
      steps: of the iteration.

    Reference: Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009 (ISTA with backtracking).
    """
    def step(_, value):
        before, slope = jax.value_and_grad(smooth)(value)

        def moved(rate):
            return prox(value - slope / rate, rate)

        def fails(state):
            rate, tries = state
            change = moved(rate) - value
            bound = before + (slope * change).sum() + 0.5 * rate * jnp.square(change).sum()
            rounding = 8.0 * jnp.finfo(value.dtype).eps * jnp.abs(before)
            return (smooth(value + change) > bound + rounding) & (tries < 30)

        start = (jnp.maximum(jnp.asarray(rate, value.dtype), 1e-12), 0)
        return moved(lax.while_loop(fails, lambda state: (2.0 * state[0], state[1] + 1), start)[0])

    return lax.fori_loop(0, steps, step, value)
