"""Atoms that are convex combinations of data, or nearly: dictionaries that come out alike whatever the seed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

METHODS = ("kmeans", "random", "outliers", "extremes")
_BATCHED = 50_000  # points above which k-means reads batches


class Archetypes(NamedTuple):
    """Parameters of an archetypal dictionary; the candidate points are constant."""

    weights: Float[Array, "m c"]  # W: rows are nonnegative and sum to one
    relax: Float[Array, "m d"]  # Lambda: rows of norm delta at most
    log_scale: Float[Array, ""]  # s


def start_archetypes(key: Array, candidates: Float[Array, "c d"], atoms: int) -> Archetypes:
    """Each atom is a candidate point of its own, drawn by `key`, so that seeds start apart.

    Args:
      key: which candidates, in which order.
      candidates: C.
      atoms: m.

    Raises:
      ValueError: for more atoms than candidates, of which some would start alike.
    """
    count, width = candidates.shape
    if atoms > count:
        raise ValueError(f"{atoms} atoms cannot start at {count} different candidates: use at least as many candidates")
    chosen = jax.random.permutation(key, count)[:atoms]
    return Archetypes(jax.nn.one_hot(chosen, count), jnp.zeros((atoms, width)), jnp.zeros(()))


def archetypal_dictionary(params: Archetypes, candidates: Float[Array, "c w"]) -> Float[Array, "m w"]:
    r"""$D = e^s (W C + \Lambda)$.

    With projected parameters each atom, divided by $e^s$, is in the convex hull of C or within delta of it. Atoms are
    not to be normalised, which would take them out of it. After training D is all that is needed.

    Args:
      params: W, Lambda and s, after `project_archetypal`.
      candidates: C.

    Returns:
      The decoder's atoms.

    Raises:
      ValueError: for parameters of other candidates.

    Reference: Fel et al., Archetypal SAE: adaptive and stable dictionary learning for concept extraction in large
    vision models, 2025, arXiv 2502.12892.
    """
    if candidates.shape != (params.weights.shape[1], params.relax.shape[1]):
        raise ValueError(f"candidates of shape {candidates.shape} do not fit weights of shape {params.weights.shape} "
                         f"and atoms of width {params.relax.shape[1]}: use those that training started from")
    return jnp.exp(params.log_scale) * (params.weights @ candidates + params.relax)


def project_archetypal(params: Archetypes, delta: float | Float[Array, ""]) -> Archetypes:
    r"""$W \leftarrow \mathrm{ReLU}(W)$, then rows divided by their sums; $\Lambda_i$ shortened to norm delta.

    To be applied to the parameters after each update. A row without a positive weight, which
    would stay zero for ever, returns to the candidate of its largest weight.

    Args:
      params: after an update.
      delta: in units of the data: 0.01 to 1 where examples have norm about one; 0 keeps atoms in the hull.

    Returns:
      Parameters within the constraints.

    Raises:
      ValueError: for a negative delta.

    Reference: as `archetypal_dictionary`.
    """
    if not isinstance(delta, jax.Array) and delta < 0:  # a traced one, of several side by side, cannot be judged
        raise ValueError(f"atoms cannot be within delta={delta} of the hull: use 0 or more")
    weights = jax.nn.relu(params.weights)
    total = weights.sum(-1, keepdims=True)
    nearest = jax.nn.one_hot(params.weights.argmax(-1), weights.shape[1], dtype=weights.dtype)
    weights = jnp.where(total > 1e-8, weights / jnp.maximum(total, 1e-8), nearest)
    norm = jnp.sqrt(jnp.maximum(jnp.square(params.relax).sum(-1, keepdims=True), 1e-24))  # has a derivative at zero
    return params._replace(weights=weights, relax=params.relax * jnp.minimum(1.0, delta / norm))


def candidate_points(x: Float[Array, "n d"], count: int, key: Array,
                     method: str = "kmeans") -> Float[Array, "c d"]:
    """Points in the convex hull of the data from which atoms are mixed; computed on the host, before training.

    Args:
      x: examples.
      count: c; the published models use about six for each atom.
      key: starts k-means or the forest, or draws the examples or directions.
      method: 'kmeans' (centroids; of more than 50,000 examples by batches), 'random' (different examples), 'outliers'
        (those that an isolation forest separates first) or 'extremes' (vertices of the hull: examples that are the
        farthest in some random direction).

    Returns:
      `[c d]` float32.

    Raises:
      ValueError: for another method, more points than examples, or more than the extremes that can be found.

    Reference: as `archetypal_dictionary`.
    """
    if method not in METHODS:
        raise ValueError(f"candidates are chosen by one of {METHODS}, not {method!r}")
    if not 1 <= count <= len(x):
        raise ValueError(f"{count} candidates cannot be made of {len(x)} examples: use from 1 to {len(x)}")
    x = np.asarray(x, np.float32)
    if method == "random":
        return jnp.asarray(x[np.asarray(jax.random.permutation(key, len(x))[:count])])
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    if method == "extremes":
        return jnp.asarray(x[_extremes(x, count, np.random.default_rng(seed))])
    if method == "outliers":
        from sklearn.ensemble import IsolationForest  # slow to import

        easily = IsolationForest(random_state=seed).fit(x).score_samples(x)  # low for those separated by few cuts
        return jnp.asarray(x[np.argsort(easily, kind="stable")[:count]])
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(x) > _BATCHED:
        found = MiniBatchKMeans(count, random_state=seed, batch_size=max(4096, 4 * count), n_init=1)
    else:
        found = KMeans(count, random_state=seed, n_init=1)
    return jnp.asarray(found.fit(x).cluster_centers_, jnp.float32)


def _extremes(x, count, rng):
    """Rows of `count` vertices of the hull, those found first; batches of directions grow as finds become rare."""
    found = np.zeros(0, np.int64)
    for batch in (count, 2 * count, 4 * count, 8 * count, 16 * count, 32 * count):
        directions = rng.standard_normal((x.shape[1], batch)).astype(np.float32)
        farthest = np.concatenate([found, (x @ directions).argmax(0)])
        found = farthest[np.sort(np.unique(farthest, return_index=True)[1])]
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"only {len(found)} extremes were found, not {count}: use fewer candidates or method='kmeans'")
