"""Coarse-to-fine prior on codes: clusters one after the other, then the codes inside them all at once."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.transformer import Transformer
from jaxae.priors.classes import check_label
from jaxae.priors.codes import check_codes, check_shape, choose, code_log_prob
from jaxae.priors.masked import BidirectionalTransformer
from jaxae.priors.transformer import transformer
from jaxae.quantizers import kmeans, nearest_code


class Clusters(NamedTuple):
    """A codebook cut into clusters, none of them empty."""

    assignment: Array  # [n] int32, the cluster of each code
    centroids: Array  # [clusters d] mean of each cluster's codes


class CoarseToFine(NamedTuple):
    """A `Prior` with one function more: `nats(params, latents, label=None) -> (coarse [n], fine [n])`.

    Its two parts, log p(coarse labels) and log p(codes | coarse labels), add up to `log_prob`.
    """

    init: Callable
    log_prob: Callable
    sample: Callable
    fit: Callable | None = None
    loss: Callable | None = None
    nats: Callable | None = None


def cluster_codebook(codebook: Float[Array, "n d"], clusters: int, key: Array, restarts: int = 4,
                     iterations: int = 20) -> Clusters:
    """k-means of the codes: the best of several starts, and every cluster has a code.

    Args:
      codebook: codes `[n d]`, in the geometry of the quantizer: normalised where it compares normalised vectors.
      clusters: how many.
      key: of the starts.
      restarts: starts by k-means++, of which the one with the least sum of squared distances counts.
      iterations: of Lloyd in each.

    Returns:
      `Clusters`.

    Raises:
      ValueError: with fewer codes than clusters, or no start.

    Reference: Guo, Zhang, Shieh, 'Improving autoregressive image generation through coarse-to-fine token prediction',
    2025, arXiv 2503.16194.
    """
    if restarts < 1:
        raise ValueError(f"cluster_codebook needs restarts >= 1, got {restarts}")
    codebook = codebook.astype(jnp.float32)

    def start(key):
        centroids = kmeans(codebook, clusters, key, iterations)
        assignment = nearest_code(codebook, centroids)
        return jnp.sum((codebook - centroids[assignment]) ** 2, -1), assignment

    squares, assignments = lax.map(start, jax.random.split(key, restarts))
    best = jnp.argmin(squares.sum(-1))

    def fill(j, carry):
        """An empty cluster takes the code farthest from its centre, of a cluster that has another."""
        assignment, squares = carry
        counts = jnp.bincount(assignment, length=clusters)
        row = jnp.argmax(jnp.where(counts[assignment] > 1, squares, -1))
        empty = counts[j] == 0
        return (jnp.where(empty, assignment.at[row].set(j), assignment),
                jnp.where(empty, squares.at[row].set(0), squares))

    assignment, _ = lax.fori_loop(0, clusters, fill, (assignments[best], squares[best]))
    total = jnp.zeros((clusters, codebook.shape[1])).at[assignment].add(codebook)
    return Clusters(assignment, total / jnp.bincount(assignment, length=clusters)[:, None])


def random_within_cluster(key: Array, codes: Int[Array, "*n"], assignment: Int[Array, " k"]) -> Int[Array, "*n"]:
    """Every code replaced by one drawn uniformly from its cluster, itself included.

    What a decoder makes of the result shows how much of an image the coarse labels hold.

    Args:
      key: of the draws.
      codes: integers `[...]` in `[0, k)`.
      assignment: cluster of each of the k codes.

    Returns:
      int32 `[...]`.
    """
    members = jnp.argsort(assignment)  # codes, cluster by cluster
    counts = jnp.bincount(assignment, length=assignment.shape[0])
    cluster = assignment[codes]
    place = jax.random.randint(key, codes.shape, 0, counts[cluster])
    return members[(jnp.cumsum(counts) - counts)[cluster] + place].astype(jnp.int32)


def coarse_to_fine(
    shape: tuple[int, ...],
    assignment: Int[Array, " k"] | Int[np.ndarray, " k"],
    num_classes: int = 0,
    width: int = 128,
    layers: int = 4,
    fine_layers: int = 4,
    heads: int = 4,
    mlp_ratio: int | float = 4,
    restrict: bool = True,
    factored: bool = True,
    dropout: float = 0.0,
    label_dropout: float = 0.0,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    style: str = "gpt",
) -> CoarseToFine:
    """Prior on integer codes through labels c_t = assignment[z_t]: an autoregressive and a parallel stage.

        log p(z | y) = sum_t log p(c_t | c_1 .. c_{t-1}, y) + sum_t log p(z_t | c_1 .. c_N, y)

    The first stage is the prior `transformer` on the few coarse labels; the second is one pass of a bidirectional
    transformer over all of them, with each code a categorical over the codes of its cluster.

    Args:
      shape: of one code map: `(t,)`, `(h, w)`, or `(h, w, q)` for residual and product codes.
      assignment: cluster `[k]` of each code of the codebook, as `cluster_codebook` gives it; a value, not traced.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`. Label `num_classes` is the
        null class.
      width: of tokens and layers of both stages.
      layers: number of blocks of the coarse stage.
      fine_layers: of the fine stage.
      heads: of each attention; `width` must be a multiple.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      restrict: whether the fine stage gives other clusters' codes probability zero. Without it the density of z is the
        sum over all coarse labels, and `log_prob`, one term of it, a lower bound.
      factored: position embeddings as sums over the axes, or one for each position.
      dropout: rate, active where `log_prob` is given a key.
      label_dropout: share of labels that the coarse stage sees replaced by the null class where `log_prob` is given a
        key; what guidance needs.
      axis_name: mapped axis over which the batch is spread, for the noise of both dropouts.
      dtype: computation of the networks; logits are float32.
      style: of both networks, 'gpt', or 'llama' as in the paper; see `jaxae.nn.transformer.Transformer`.

    Returns:
      A `CoarseToFine`, which is a `Prior` and has `nats`. `log_prob` is in nats per map, NaN where a code or label is
      out of range. `sample(params, key, n, label=None, temperature=1.0, guidance=1.0, top_k=None,
      fine_temperature=1.0)` gives int32 `[n, *shape]`; the first three options act on the coarse stage as in
      `transformer`.

    Raises:
      ValueError: for impossible shapes or shares, an empty cluster, codes that are not integers of this shape, a
        missing label of a class-conditional prior, or guidance without classes.

    Reference: Guo, Zhang, Shieh, 'Improving autoregressive image generation through coarse-to-fine token prediction',
    2025, arXiv 2503.16194.

    >>> prior = coarse_to_fine((2, 2), np.array([0, 0, 1, 2, 1]), width=16, layers=1, fine_layers=1, heads=2)
    >>> codes = jnp.array([[[0, 1], [2, 4]]])
    >>> params = prior.init(jax.random.key(0), codes)
    >>> coarse, fine = prior.nats(params, codes)
    >>> coarse.shape, prior.sample(params, jax.random.key(1), 3).shape
    ((1,), (3, 2, 2))
    """
    assignment = np.asarray(assignment)
    num_codes, sizes = assignment.size, np.bincount(assignment)
    if not sizes.all():
        raise ValueError(f"coarse_to_fine: cluster {int(np.argmin(sizes))} has no codes: number clusters without gaps.")
    shape = check_shape("coarse_to_fine", shape, (1, 2, 3), num_codes, num_classes, label_dropout)
    clusters, length = sizes.size, math.prod(shape)
    first = transformer(shape, clusters, num_classes, width, layers, heads, mlp_ratio, "softmax", factored, dropout,
                        label_dropout, axis_name, dtype, style=style)
    body = Transformer(num_codes, shape, width, fine_layers, heads, mlp_ratio, False, "softmax", factored, dropout,
                       axis_name, dtype, style=style)
    second = BidirectionalTransformer(clusters, num_classes, body)

    def coarse_of(codes):
        # Codes out of range get labels out of range, which are NaN further on.
        return jnp.where((codes >= 0) & (codes < num_codes), jnp.asarray(assignment, jnp.int32)[codes], clusters)

    def fine_logits(params, coarse, label, rngs=None):
        coarse = coarse.reshape(-1, length)
        logits = second.apply({"params": params["fine"]}, coarse, label, rngs is None, rngs=rngs)
        return jnp.where(jnp.asarray(assignment) == coarse[..., None], logits, -jnp.inf) if restrict else logits

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        keys = collectives.split_keys(key, ("coarse", "fine"))
        coarse = coarse_of(check_codes(latents, shape))[:1]
        label = check_label(label, latents.shape[0], num_classes)
        label = None if label is None else label[:1]
        return {"coarse": first.init(keys["coarse"], coarse, label),
                "fine": second.init(keys["fine"], coarse.reshape(1, length), label)["params"]}

    def nats(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
             key: Array | None = None) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        keys = {"coarse": None} if key is None else collectives.split_keys(key, ("coarse", "fine"))
        coarse = coarse_of(check_codes(latents, shape))
        logits = fine_logits(params, coarse, check_label(label, latents.shape[0], num_classes),
                             None if key is None else {"dropout": keys["fine"]})
        fine = code_log_prob(logits, latents.reshape(-1, length)).sum(-1)
        return first.log_prob(params["coarse"], coarse, label, keys["coarse"]), fine

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        return sum(nats(params, latents, label, key))

    @partial(jax.jit, static_argnames="n")
    def draw_fine(params, key, n, coarse, label, temperature):
        return choose(key, fine_logits(params, coarse, label), temperature).reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               top_k: int | None = None, fine_temperature: float | Float[Array, ""] = 1.0) -> Int[Array, "n ..."]:
        keys = collectives.split_keys(key, ("coarse", "fine"))
        coarse = first.sample(params["coarse"], keys["coarse"], n, label, temperature, guidance, top_k)
        return draw_fine(params, keys["fine"], n, coarse, check_label(label, n, num_classes),
                         jnp.float32(fine_temperature))

    return CoarseToFine(init, log_prob, sample, nats=nats)
