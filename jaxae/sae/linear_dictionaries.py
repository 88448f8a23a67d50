"""Dictionaries without a sparse autoencoder, to compare with: principal and independent components.

Random directions are `random_atoms`, single neurons the rows of the identity matrix.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxae.sae.atoms import unit_rows


def pca_dictionary(x: Float[Array, "n d"], atoms: int) -> Float[Array, "{atoms} d"]:
    """Principal directions, the largest variance first, each turned so that projections on it are skewed to the right.

    The turn matters where directions are compared by signed cosine or projections are cut off below 0: features that
    are seldom active have a long tail on one side.

    Args:
      x: examples; the mean is subtracted.
      atoms: how many, at most min(n, d).

    Returns:
      Unit rows.

    Raises:
      ValueError: for more atoms than that.

    >>> x = jnp.array([[3.0, 0.1], [0.0, -0.1], [0.0, 0.0], [0.0, 0.2], [0.0, -0.2]])
    >>> pca_dictionary(x, 1).round(1).tolist()
    [[1.0, 0.0]]
    """
    _check("pca_dictionary", x, atoms)
    x = x.astype(jnp.float32) - x.astype(jnp.float32).mean(0)
    directions = jnp.linalg.svd(x, full_matrices=False)[2][:atoms]
    skew = ((x @ directions.T) ** 3).mean(0)
    return directions * jnp.where(skew < 0, -1.0, 1.0)[:, None]


def ica_dictionary(x: Float[ArrayLike, "n d"], atoms: int, seed: int = 0,
                   steps: int = 500) -> Float[Array, "{atoms} d"]:
    """Independent components: the mixing directions that scikit-learn's FastICA finds, turned as in `pca_dictionary`.

    Args:
      x: examples; the mean is subtracted.
      atoms: how many, at most min(n, d).
      seed: of its start.
      steps: at most so many iterations; it warns where they do not converge.

    Returns:
      Unit rows, on the host's arithmetic: no function to `jit`.

    Raises:
      ValueError: for more atoms than that.

    Reference: Hyvarinen and Oja, 'Independent component analysis: algorithms and applications', 2000; as a baseline of
    dictionaries: Cunningham et al., 2023, arXiv 2309.08600.
    """
    from sklearn.decomposition import FastICA  # slow to import

    _check("ica_dictionary", x, atoms)
    fitted = FastICA(atoms, whiten="unit-variance", random_state=seed, max_iter=steps)
    sources = fitted.fit_transform(np.asarray(x, np.float64))
    turned = fitted.mixing_.T * np.where((sources**3).mean(0) < 0, -1.0, 1.0)[:, None]
    return unit_rows(jnp.asarray(turned, jnp.float32))


def _check(name, x, atoms):
    if np.ndim(x) != 2 or not 1 <= atoms <= min(np.shape(x)):
        raise ValueError(f"{name} finds at most as many atoms as x [n d] has rows and columns; got x {np.shape(x)}, "
                         f"atoms={atoms}")
