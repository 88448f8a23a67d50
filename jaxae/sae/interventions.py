"""Edits of activations along a dictionary's atoms, and erasure of a concept without one, to compare with.

What a host model makes of the edited activations is the host's matter: these are functions of arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from jaxae.collectives import mean


class Eraser(NamedTuple):
    """An affine map that removes a concept: x - (x - centre) @ projection."""

    projection: Float[Array, "d d"]
    centre: Float[Array, " d"]

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Activations without the concept."""
        return x - (x - self.centre) @ self.projection


def patch_features(x: Float[Array, "*n d"], codes: Float[Array, "*n m"], other: Float[Array, "..."],
                   atoms: Float[Array, "p e"], which: Int[ArrayLike, " s"] | Bool[ArrayLike, " m"]
                   ) -> Float[Array, "*n d"]:
    r"""$x + \sum_{i \in S} (c'_i - c_i) d_i$: chosen features take the values that they have in another run.

    What the dictionary does not reconstruct stays as it is. With all features the change is that of the whole
    reconstruction.

    Args:
      x: activations of the run to change.
      codes: c, its codes.
      other: c', codes of the run to take from.
      atoms: rows d_i of the decoder, those by which codes are decoded.
      which: S, indices `[s]` or a mask `[m]`.

    Returns:
      Activations.

    Raises:
      ValueError: for shapes that do not fit.

    >>> patch_features(jnp.ones((1, 2)), jnp.array([[1.0, 2.0]]), jnp.array([[4.0, 0.0]]), jnp.eye(2),
    ...                jnp.array([0])).tolist()
    [[4.0, 1.0]]

    Reference: Cunningham et al., 'Sparse autoencoders find highly interpretable features in language models', 2023,
    arXiv 2309.08600.
    """
    if codes.shape != other.shape or atoms.shape != (codes.shape[-1], x.shape[-1]) or codes.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"patch_features wants x [... d], two codes [... m] and atoms [m d]; got {x.shape}, "
                         f"{codes.shape}, {other.shape}, {atoms.shape}")
    which = jnp.asarray(which)
    chosen = which if which.dtype == bool else jnp.zeros(codes.shape[-1], bool).at[which].set(True)
    return x + jnp.where(chosen, other - codes, 0.0) @ atoms


def erase_feature(x: Float[Array, "*n d"], codes: Float[Array, "*n m"], atoms: Float[Array, "m d"],
                  index: int | Int[ArrayLike, ""]) -> Float[Array, "*n d"]:
    r"""$x - c_i d_i$: the activations as if one feature, which may be traced, were not active."""
    return x - jnp.take(codes, jnp.asarray(index), axis=-1)[..., None] * jnp.take(atoms, jnp.asarray(index), axis=0)


def each_erased(function: Callable[[Array], PyTree], x: Float[Array, "*n d"], codes: Float[Array, "*n m"],
                atoms: Float[Array, "m d"]) -> PyTree:
    """What becomes of activations without each feature in turn, such as a host's loss or the features of a later layer.

    Sorted by the change of one later feature, it is a layer of that feature's tree of causes.

    Args:
      function: activations -> arrays; evaluated m times, one feature after the other.
      x: activations.
      codes: theirs.
      atoms: the decoder.

    Returns:
      What `function` returns, with a leading axis `[m]`.

    Reference: Cunningham et al., 2023, arXiv 2309.08600.
    """
    return jax.lax.map(lambda i: function(erase_feature(x, codes, atoms, i)), jnp.arange(atoms.shape[0]))


def patching_order(codes: Float[Array, "n m"], other: Float[Array, "n m"]) -> Int[Array, " m"]:
    """Features in the order in which to patch them: those whose codes differ most between two runs, on average, first.

    Args:
      codes: of n positions of one run.
      other: of the same positions of the other.
    """
    return jnp.argsort(-jnp.abs((other - codes).mean(0)))


def greedy_patching(damage: Callable[[Bool[Array, " m"]], Float[Array, ""]], count: int,
                    most: int) -> tuple[Int[Array, " {most}"], Float[Array, " {most}"]]:
    """Features to patch, one after the other, each the one that leaves the least damage together with those before.

    Args:
      damage: mask of features `[m]` -> a scalar, such as the divergence of the output from the other run's.
      count: m; `damage` is evaluated so many times for each feature that is chosen.
      most: how many.

    Returns:
      The features, and the damage after each.

    Raises:
      ValueError: for more features than there are.

    Reference: after the procedure of Conmy et al., 'Towards automated circuit discovery for mechanistic
    interpretability', 2023, arXiv 2304.14997, that Cunningham et al. use.
    """
    if not 1 <= most <= count:
        raise ValueError(f"greedy_patching chooses 1 to {count} of {count} features, not {most}")

    def add(mask, _):
        trials = jax.lax.map(lambda i: damage(mask.at[i].set(True)), jnp.arange(count))
        trials = jnp.where(mask, jnp.inf, trials)
        best = trials.argmin()
        return mask.at[best].set(True), (best, trials[best])

    return jax.lax.scan(add, jnp.zeros(count, bool), None, most)[1]


def mean_eraser(x: Float[Array, "n d"], labels: Real[Array, " n"], axis_name: str | None = None) -> Eraser:
    """Projects out the difference of two classes' means.

    Args:
      x: activations.
      labels: 0 or 1.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      An `Eraser`; classes have one mean afterwards.
    """
    x, y = x.astype(jnp.float32), labels.astype(jnp.float32)
    share = mean(y.mean(), axis_name)
    difference = mean((y[:, None] * x).mean(0), axis_name) / share
    difference -= mean(((1.0 - y)[:, None] * x).mean(0), axis_name) / (1.0 - share)
    unit = difference / jnp.maximum(jnp.linalg.norm(difference), 1e-12)
    return Eraser(jnp.outer(unit, unit), mean(x.mean(0), axis_name))


def leace(x: Float[Array, "n d"], concept: Real[Array, "n c"], tolerance: float = 1e-4,
          axis_name: str | None = None) -> Eraser:
    r"""Least-squares concept erasure: no linear function of what is left tells the concept, and x moves least.

    $x' = x - W^+ P W (x - \bar x)$, $W = (\Sigma_{xx}^{1/2})^+$, P the projection on the columns of $W \Sigma_{xz}$.

    Args:
      x: activations.
      concept: z, one or several columns, such as one-hot classes.
      tolerance: directions with less than this share of the largest variance, or singular value, count as none.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      An `Eraser`; the covariance of x' and z is 0 on these examples.

    Reference: Belrose et al., 'LEACE: perfect linear concept erasure in closed form', 2023, arXiv 2306.03819.
    """
    x, z = x.astype(jnp.float32), concept.astype(jnp.float32)
    centre = mean(x.mean(0), axis_name)
    x, z = x - centre, z - mean(z.mean(0), axis_name)
    values, vectors = jnp.linalg.eigh(mean(x.T @ x / x.shape[0], axis_name))
    kept = values > tolerance * values.max()
    root = jnp.where(kept, jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)
    whiten = (vectors * jnp.where(kept, 1.0 / jnp.where(kept, root, 1.0), 0.0)) @ vectors.T
    back = (vectors * root) @ vectors.T
    u, s, _ = jnp.linalg.svd(whiten @ mean(x.T @ z / x.shape[0], axis_name), full_matrices=False)
    u = jnp.where(s > tolerance * s.max(), u, 0.0)
    return Eraser((back @ u @ u.T @ whiten).T, centre)
