"""Examples of a subdomain out of a large pool: scores by words, by embeddings and by gradients, from a few seeds."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from jaxae.data.source import DataError

_OVER = {"max": np.max, "mean": np.mean}


def bm25_scores(queries: Sequence[Sequence[Hashable]], documents: Sequence[Sequence[Hashable]], k1: float = 1.5,
                b: float = 0.75, over: str = "mean") -> Float[np.ndarray, " n"]:
    r"""Okapi BM25 of every document, over several queries.

        sum_{w in query} log(1 + (n - n_w + 1/2) / (n_w + 1/2)) f_w (k1 + 1) / (f_w + k1 (1 - b + b l / mean l))

    with l the document's length, f_w the times that w is in the document and n_w the documents that have it.

    Args:
      queries: each a sequence of words or tokens; a word that comes twice counts twice.
      documents: of the pool.
      k1: how slowly more of the same word stops counting.
      b: how far long documents are held back, 0 to 1.
      over: of the queries, 'mean' or 'max'.

    Returns:
      A score for each document, not negative.

    Raises:
      DataError: no queries, no documents, or another `over`.

    >>> bm25_scores([["quark"]], [["a", "quark"], ["a", "cat"]]).round(3).tolist()
    [0.693, 0.0]

    Reference: Robertson and Zaragoza, 'The probabilistic relevance framework: BM25 and beyond', 2009; to select what a
    sparse autoencoder learns, Muhamed, Diab and Smith, 'Decoding dark matter', 2024, arXiv 2411.00743.
    """
    _check(len(queries), len(documents), over)
    length = np.array([len(d) for d in documents], np.float64)
    damp = k1 * (1.0 - b + b * length / max(length.mean(), 1e-12))
    wanted = {word for query in queries for word in query}
    times: dict[Hashable, dict[int, int]] = {word: {} for word in wanted}
    for i, document in enumerate(documents):
        for word, count in Counter(document).items():
            if word in wanted:
                times[word][i] = count
    weight = {}
    for word, found in times.items():
        column, n = np.zeros(len(documents)), len(found)
        places, counts = np.array([*found], np.int64), np.array([*found.values()], np.float64)
        rarity = math.log1p((len(documents) - n + 0.5) / (n + 0.5))
        column[places] = rarity * counts * (k1 + 1.0) / (counts + damp[places])
        weight[word] = column
    nothing = np.zeros(len(documents))
    return _OVER[over]([sum((weight[word] for word in query), nothing) for query in queries], axis=0)


def dense_scores(queries: Float[ArrayLike, "q e"], documents: Float[ArrayLike, "n f"],
                 over: str = "max") -> Float[np.ndarray, " n"]:
    """Cosine of every document's embedding with those of the queries, over the queries 'max' or 'mean'.

    Args:
      queries: embeddings of the seeds.
      documents: embeddings of the pool.
      over: of the queries.

    Raises:
      DataError: none of either, widths that differ, or another `over`.

    >>> dense_scores(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    queries, documents = np.asarray(queries, np.float32), np.asarray(documents, np.float32)
    _check(len(queries), len(documents), over)
    if queries.shape[1:] != documents.shape[1:]:
        raise DataError(f"queries of shape {queries.shape} and documents of {documents.shape}: embed both alike")
    queries, documents = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (queries, documents))
    return _OVER[over](queries @ documents.T, axis=0)


def tracin_scores(loss_fn: Callable[[PyTree, PyTree], Float[Array, " n"]], checkpoints: Sequence[PyTree],
                  rates: Sequence[float], documents: PyTree, seeds: PyTree) -> Float[Array, " n"]:
    r"""$\sum_c \eta_c \, \nabla \ell(x_i; \theta_c) \cdot \nabla \bar\ell(\mathrm{seeds}; \theta_c)$ of every document.

    How far steps on a document would lower the seeds' loss, to first order. By one forward derivative along the seeds'
    gradient, so that no gradient of a single document is ever held.

    Args:
      loss_fn: `(params, rows) -> [n]`, the loss of each row.
      checkpoints: parameters theta_c; only some of them (the encoder, say) make it cheaper.
      rates: eta_c.
      documents: rows of the pool, as `loss_fn` takes them.
      seeds: rows of the subdomain.

    Returns:
      `[n]`, signed.

    Raises:
      DataError: no checkpoints, or another number of rates.

    Reference: Pruthi et al., 'Estimating training data influence by tracing gradient descent', 2020, arXiv 2002.08484.
    """
    if not checkpoints or len(rates) != len(checkpoints):
        raise DataError(f"{len(rates)} rates for {len(checkpoints)} checkpoints: give one for each, and at least one")
    scores = 0.0
    for params, rate in zip(checkpoints, rates, strict=True):
        towards = jax.grad(lambda p: loss_fn(p, seeds).mean())(params)
        scores = scores + rate * jax.jvp(lambda p: loss_fn(p, documents), (params,), (towards,))[1]
    return jnp.asarray(scores)


def select_top(scores: Real[ArrayLike, " n"], count: int) -> Int[np.ndarray, " {count}"]:
    """Indices of the `count` largest scores, the largest first; of equal ones the earlier.

    Raises:
      DataError: for a count outside [1, n].

    >>> select_top(np.array([0.5, 2.0, 1.0]), 2).tolist()
    [1, 2]
    """
    scores = np.asarray(scores)
    if not 1 <= count <= len(scores):
        raise DataError(f"{count} of {len(scores)} documents cannot be selected: choose 1 to {len(scores)}")
    return np.argsort(-scores, kind="stable")[:count]


def _check(queries, documents, over):
    if not queries or not documents or over not in _OVER:
        raise DataError(f"a selection wants queries, documents and over='max' or 'mean'; got {queries} queries, "
                        f"{documents} documents and over={over!r}")
