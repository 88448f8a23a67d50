"""The shape of a dictionary and of its codes: coherence, ranks, co-activation, distance to the data."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr
from jaxtyping import Array, ArrayLike, Float

from jaxae.metrics.dictionaries import mean_max_cosine

_TINY = 1e-12


def ood_score(atoms: Float[Array, "m d"], data: Float[Array, "n e"], block: int = 256) -> Float[Array, ""]:
    """1 - 1/m sum_i max_j cos(D_i, A_j): how far atoms point away from all data; 0 for atoms that are data.

    Args:
      atoms: D.
      data: A, the activations.
      block: rows of the cosines in memory at once.

    Returns:
      A scalar in [0, 2].

    Reference: Fel et al., 'Archetypal SAE', 2025, arXiv 2502.12892, as are the ranks, connectivity and interference.
    """
    return 1.0 - mean_max_cosine(atoms, data, block)


def plausibility(atoms: Float[Array, "m d"], head: Float[Array, "c e"]) -> Float[Array, ""]:
    """mean_c max_i cos(v_c, D_i): how near each row of a classifier's head `v` has an atom."""
    return mean_max_cosine(head, atoms)


def stable_rank(atoms: Float[Array, "m d"]) -> Float[Array, ""]:
    """||D||_F^2 / ||D||_2^2 of the atoms D `[m d]`, a scalar: at most the rank and at least 1.

    Reference: as a metric of dictionaries Fel et al., Archetypal SAE, 2025, arXiv 2502.12892.
    """
    square = jnp.square(jnp.linalg.svd(atoms.astype(jnp.float32), compute_uv=False))
    return square.sum() / square.max()


def effective_rank(atoms: Float[Array, "m d"]) -> Float[Array, ""]:
    """exp of the entropy of the singular values divided by their sum, at most the rank and at least 1.

    Reference: Roy and Vetterli, 'The effective rank', 2007.
    """
    values = jnp.linalg.svd(atoms.astype(jnp.float32), compute_uv=False)
    return jnp.exp(entr(values / values.sum()).sum())


def coherence(atoms: Float[Array, "m d"]) -> Float[Array, ""]:
    """max_{i != j} |cos(D_i, D_j)|: how alike the two most similar atoms are, up to sign."""
    return _interference(atoms).max()


def connectivity(codes: Float[Array, "n m"]) -> Float[Array, ""]:
    """Share of the entries of Z^T Z that are not zero: pairs of latents that are ever active together."""
    return (_together(codes) > 0).mean(dtype=jnp.float32)


def hoyer(codes: Float[Array, "n m"]) -> Float[Array, " n"]:
    """(sqrt m - |z|_1 / |z|_2) / (sqrt m - 1): 1 for one active latent, 0 for all equally; 0 where none is active.

    Reference: Hoyer, 'Non-negative matrix factorization with sparseness constraints', JMLR 2004.
    """
    m = codes.shape[1]
    if m < 2:
        raise ValueError("hoyer compares latents: give codes of at least two")
    codes = codes.astype(jnp.float32)
    norm = jnp.linalg.norm(codes, axis=1)
    ratio = jnp.abs(codes).sum(1) / jnp.maximum(norm, _TINY)
    return jnp.where(norm > 0, (math.sqrt(m) - ratio) / (math.sqrt(m) - 1), 0.0)


def negative_interference(codes: Float[Array, "n m"], atoms: Float[Array, "m d"]) -> Float[Array, ""]:
    """|| ReLU(-(Z^T Z) o (D D^T)) ||_2, the spectral norm: how far latents that fire together cancel each other.

    Args:
      codes: Z. The number grows with n: compare sets of one size, or divide by n.
      atoms: D, as they are used (not normalised here).

    Returns:
      A scalar, 0 where no two latents that fire together point against each other.
    """
    codes, atoms = codes.astype(jnp.float32), atoms.astype(jnp.float32)
    both = _product(codes.T, codes) * _product(atoms, atoms.T)
    return jnp.linalg.norm(jax.nn.relu(-both), ord=2)


def babel(atoms: Float[Array, "m d"], r_max: int) -> Float[Array, " {r_max}"]:
    """Babel function mu_1(r) = max over |S| = r and j not in S of sum_{i in S} |cos(D_i, D_j)|, r = 1, ..., r_max.

    mu_1(1) is the coherence. Matching pursuit finds every r-sparse code where mu_1(r - 1) + mu_1(r) < 1.

    Args:
      atoms: D.
      r_max: at most m - 1.

    Returns:
      `[r_max]`, ascending.

    Raises:
      ValueError: for r_max outside [1, m - 1].

    Reference: Tropp, 'Greed is good', IEEE Transactions on Information Theory, 2004.
    """
    if not 1 <= r_max < atoms.shape[0]:
        raise ValueError(f"babel sums over r_max other atoms, 1 to {atoms.shape[0] - 1} here; got {r_max}")
    return jnp.cumsum(lax.top_k(_interference(atoms), r_max)[0], axis=1).max(0)


def babel_coactive(atoms: Float[Array, "m d"], codes: Float[Array, "n m"]) -> Float[Array, " n"]:
    """max over active j of sum over the other active i of |cos(D_i, D_j)|, for each example: 0 for one active latent.

    Reference: Costa et al., 'From flat to hierarchical', 2025, arXiv 2506.03093.
    """
    active = (codes != 0).astype(jnp.float32)
    return (active * _product(active, _interference(atoms))).max(1)


def spark_lower_bound(atoms: Float[ArrayLike, "m d"]) -> int:
    """1 + 1 / coherence, rounded up: any fewer atoms are linearly independent.

    A code with fewer than half as many active atoms is the only one so sparse. m + 1 where no atoms interfere.

    Args:
      atoms: D.

    Returns:
      An integer in [2, m + 1].

    Reference: Donoho and Elad, 'Optimally sparse representation in general dictionaries', PNAS 2003.
    """
    atoms = np.asarray(atoms, np.float64)
    atoms = atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), _TINY)
    largest = np.abs(atoms @ atoms.T - np.diag((atoms * atoms).sum(1))).max()
    m = len(atoms)
    return m + 1 if largest * m < 1 else min(math.ceil(1 + 1 / largest - 1e-6), m + 1)


def _product(a, b):
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _interference(atoms):
    """|cos(D_i, D_j)| `[m m]`, 0 on the diagonal."""
    atoms = atoms.astype(jnp.float32)
    atoms = atoms / jnp.maximum(jnp.linalg.norm(atoms, axis=1, keepdims=True), _TINY)
    return jnp.abs(_product(atoms, atoms.T)) * (1.0 - jnp.eye(atoms.shape[0]))


def _together(codes):
    """In how many examples two latents are active together `[m m]`."""
    active = (codes != 0).astype(jnp.float32)
    return _product(active.T, active)
