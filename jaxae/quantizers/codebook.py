"""The vector quantizer: a codebook of vectors, by averages or by gradients, by distance or by angle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae import collectives
from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.ema import ema_codebook, ema_update, soft_ema_update
from jaxae.quantizers.ema import revive as revive_averages
from jaxae.quantizers.estimators import estimator_of
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.vector import assign, by_chunks, first_best, lookup, nearest_code, sample_rows


class CodeUse(NamedTuple):
    """What revives the codes of a codebook that gradients move."""

    counts: Float[Array, " k"]  # moving average of assignments per batch
    fresh: Float[Array, "k d"]  # random vectors of the last batch


def vector(codes: int, width: int, *, codebook: str = "ema", distance: str = "euclidean",
           estimator: str = "straight_through", beta: float = 0.25, decay: float = 0.99, epsilon: float = 1e-5,
           revive: float = 0.01, start: str = "kmeans", temperature: float = 0.0, soft: bool = False,
           axis_name: str | None = None) -> Quantizer:
    """The vector quantizer of the VQ-VAE: every vector becomes the nearest of K codes.

    loss = beta |z - sg[e]|^2 for a codebook of moving averages, + |sg[z] - e|^2 for one that gradients move; means
    over positions and channels. What one finds in `Codes`:

        codebook    learned        moving
        'ema'       ()             EMACodebook; `quantize` updates and revives it
        'gradient'  codes [K d]    CodeUse; `after` puts dead codes onto vectors of the last batch

    'cosine' scales z and codes to length 1 before they are compared, and gives the decoder the code of length 1. Its
    distance is |z^ - e^|^2 = 2 - 2 cos, in both losses too, and averages are scaled to length 1 again. No gradient then
    points along z, so that no loss makes the encoder's outputs longer or shorter.

    With a temperature T > 0 training samples the code, P(j) ~ exp(-|z - e_j|^2 / T), by Gumbel noise on the distances;
    evaluation takes the nearest. Noise is made for 256 to 1,024 vectors at a time, a key for each vector: memory is
    that of the search, and 1 device samples what N devices sample. Straight-through goes with it; see `rotate_to`.

    With `soft` training takes the mean under that P instead of a draw: z_q = sum_j P(j) e_j, to which z is committed,
    and the moving averages are weighed by P. The matrix of P, a row for each vector, is whole in memory. Evaluation
    takes the nearest code.

    Args:
      codes: K, at least 2.
      width: d.
      codebook: 'ema' or 'gradient'.
      distance: 'euclidean' or 'cosine'.
      estimator: a name of `ESTIMATORS`.
      beta: weight of the commitment loss.
      decay: of the moving averages of codes and counts.
      epsilon: of the smoothing of the EMA's counts.
      revive: codes with fewer assignments per batch move to random vectors of it; 0 revives none.
      start: 'kmeans' or 'data' (distinct random vectors) for `Quantizer.start`, or 'uniform' or 'normal', which have
        none: codes then stay in +-1/K or are drawn from N(0, I) (random directions with 'cosine').
      temperature: T, in squared units of z; 0 takes the nearest code.
      soft: the mean of the codes under P; wants a temperature and a codebook of moving averages.
      axis_name: the mapped axis over which the batch is spread, or None under `jit`.

    Returns:
      A `Quantizer` of one place, with the metrics `commitment` and, for gradients, `codebook`.

    Raises:
      ValueError: for options that do not exist; from `start` with fewer vectors than codes.

    Example:
      >>> import jax
      >>> quantizer = vector(4, 2)
      >>> state = quantizer.init(jax.random.key(0))
      >>> quantizer.quantize(jnp.zeros((3, 5, 2)), state, jax.random.key(1), True).indices.shape
      (3, 5)

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937; cosine: Yu et al., 'Vector-quantized
    image modeling with improved VQGAN', 2021, arXiv 2110.04627; sampling: Sonderby, Poole, Mnih, 'Continuous
    relaxation training of discrete latent variable image models', Bayesian deep learning workshop, 2017; soft: Hosking
    and Lapata, 'Factorising meaning and form for intent-preserving paraphrasing', 2021, arXiv 2105.15053, with T = 1.
    """
    check_codes(codes, width)
    _check_choice("codebook", codebook, ("ema", "gradient"))
    _check_choice("distance", distance, ("euclidean", "cosine"))
    _check_choice("start", start, ("kmeans", "data", "uniform", "normal"))
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must not be negative; 0 takes the nearest code")
    if soft and not (temperature and codebook == "ema" and distance == "euclidean"):
        raise ValueError(f"soft=True wants codebook='ema', distance='euclidean' and a temperature above 0, here "
                         f"{codebook!r}, {distance!r} and {temperature}")
    past, moving, cosine = estimator_of(estimator), codebook == "ema", distance == "cosine"
    scaled = to_unit_length if cosine else lambda x: x

    def state_at(rows):
        rows = scaled(rows)
        return Codes((), ema_codebook(rows)) if moving else Codes(rows, CodeUse(jnp.ones(codes), rows))

    def codes_of(state):
        return state.moving.codes if moving else scaled(state.learned)

    def init(key):
        if cosine or start == "normal":
            return state_at(jax.random.normal(key, (codes, width)))
        return state_at(jax.random.uniform(key, (codes, width), minval=-1.0 / codes, maxval=1.0 / codes))

    def quantize(z, state, key, train):
        z, table, noise_key = scaled(z), codes_of(state), None
        if soft and train:
            return quantize_softly(z, state, key)
        if temperature:
            noise_key, key = jax.random.split(key)
        indices = sample_code(z, table, noise_key, temperature, axis_name) if temperature and train \
            else nearest_code(z, table)
        found = assign(z, table, indices, past)
        loss, metrics = beta * found.commitment_loss, {"commitment": found.commitment_loss}
        if not moving:
            loss, metrics = loss + found.codebook_loss, metrics | {"codebook": found.codebook_loss}
        return Quantized(found.z_q, indices, loss, updated(state, z, indices, key) if train else state, metrics)

    def quantize_softly(z, state, key):
        table = state.moving.codes
        p = code_probabilities(z, table, temperature)
        mean = jnp.matmul(p, table, precision=lax.Precision.HIGHEST)
        commitment = jnp.mean((z.astype(jnp.float32) - mean) ** 2, axis=tuple(range(1, z.ndim)))
        new = soft_ema_update(state.moving, z, p, decay, epsilon, axis_name)
        return Quantized(past(z, mean.astype(z.dtype)), nearest_code(z, table), beta * commitment,
                         Codes((), revived(new, z, key)), {"commitment": commitment})

    def revived(new, z, key):
        return revive_averages(new, z, key, revive, axis_name) if revive else new

    def updated(state, z, indices, key):
        if moving:
            new = ema_update(state.moving, z, indices, decay, epsilon, axis_name)
            return Codes((), revived(new._replace(codes=scaled(new.codes)), z, key))
        rows = lax.stop_gradient(z).reshape(-1, width).astype(jnp.float32)
        counts = collectives.total(jnp.zeros(codes).at[indices.reshape(-1)].add(1.0), axis_name)
        fresh = sample_rows(rows, key, codes, axis_name) if revive else state.moving.fresh
        return Codes(state.learned, CodeUse(decay * state.moving.counts + (1.0 - decay) * counts, fresh))

    def start_at(vectors, state, key):
        return state_at(kmeans(scaled(vectors), codes, key, 20 if start == "kmeans" else 0))

    def after(state, key):
        dead = state.moving.counts < revive
        return Codes(jnp.where(dead[:, None], state.moving.fresh, state.learned),
                     state.moving._replace(counts=jnp.where(dead, 2.0 * revive, state.moving.counts)))

    return Quantizer(width, codes, 1, init, quantize, lambda indices, state: lookup(indices, codes_of(state)),
                     start_at if start in ("kmeans", "data") else None, after if revive and not moving else None)


def sample_code(z: Float[Array, "*n d"], codebook: Float[Array, "k w"], key: Array, temperature: float,
                axis_name: str | None = None) -> Int[Array, "*n"]:
    """A code for each vector with probability softmax(-|z - e_j|^2 / temperature): the nearest, under Gumbel noise.

    Like `nearest_code` it searches chunks of rows, with the noise of one chunk at a time in memory (`row_noise`, so
    that the draw does not depend on chunks and devices).

    Args:
      z: vectors `[... d]`; with an axis, of this replica.
      codebook: codes `[k d]`.
      key: one key, the same on every replica.
      temperature: above 0, in squared units of z.
      axis_name: the mapped axis, or None under `jit`.

    Returns:
      int32 `[...]`; no gradient.

    Raises:
      ValueError: if the widths differ.
    """
    k, d = codebook.shape
    if z.shape[-1] != d:
        raise ValueError(f"the encoder gives vectors of width {z.shape[-1]}, the codebook holds width {d}: "
                         f"make them equal")
    flat = lax.stop_gradient(z).reshape(-1, d).astype(jnp.float32)
    codes = lax.stop_gradient(codebook).astype(jnp.float32)
    weights, offset = 2.0 * codes.T / temperature, jnp.sum(codes**2, axis=-1) / temperature

    def search(inputs):
        rows, number = inputs
        score = jnp.dot(rows, weights, precision=lax.Precision.HIGHEST) - offset
        return first_best(score + row_noise(key, number, k))

    return by_chunks(search, (flat, row_numbers(flat.shape[0], axis_name)), k).reshape(z.shape[:-1])


def row_numbers(n: int, axis_name: str | None = None) -> Int[Array, " n"]:
    """The numbers in the global batch of this replica's n rows: i + n r for row i of replica r, int32 `[n]`.

    Args:
      n: rows of this replica, as many as of every other.
      axis_name: the mapped axis, or None where the batch is whole, as under `jit`.

    >>> row_numbers(3).tolist()
    [0, 1, 2]
    """
    return jnp.arange(n) + (0 if axis_name is None else n * lax.axis_index(axis_name))


def row_noise(key: Array, row: Int[Array, " r"], k: int) -> Float[Array, "r k"]:
    """k draws of Gumbel noise for each row: those of row i have the key fold_in(key, i), whatever rows come with it.

    The bits of one row are never split over devices; a generator whose bits may be takes twice as long.
    """
    with jax.threefry_partitionable(False):
        return jax.vmap(lambda i: jax.random.gumbel(jax.random.fold_in(key, i), (k,)))(row)


def code_probabilities(z: Float[Array, "*n d"], codebook: Float[Array, "k d"], temperature: float = 1.0
                       ) -> Float[Array, "*n k"]:
    """P(j) = softmax_j(-|z - e_j|^2 / temperature), float32 and without a gradient, `[... k]`."""
    z, codes = (lax.stop_gradient(part).astype(jnp.float32) for part in (z, codebook))
    score = 2.0 * jnp.matmul(z, codes.T, precision=lax.Precision.HIGHEST) - jnp.sum(codes**2, axis=-1)
    return jax.nn.softmax(score / temperature, axis=-1)


def to_unit_length(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """x / |x| over the last axis; vectors shorter than 1e-6 stay as they are, with finite gradients."""
    square = jnp.sum(x.astype(jnp.float32) ** 2, axis=-1, keepdims=True)
    long = square > 1e-12
    return (x / jnp.sqrt(jnp.where(long, square, 1.0))).astype(x.dtype)


def check_codes(codes: int, width: int) -> None:
    """Refuses a codebook `[codes width]` that nothing can be quantized with.

    Args:
      codes: number of vectors, K.
      width: dimensions of each, d.

    Raises:
      ValueError: for fewer than 2 codes, or a width below 1.
    """
    if codes < 2 or width < 1:
        raise ValueError(f"codes={codes} must be at least 2 and width={width} at least 1")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(repr(c) for c in choices)}")
