"""Global tokens: every channel of a feature map is one token, with a codebook of its own that splits its busy cells."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae import collectives
from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.codebook import vector
from jaxae.quantizers.combine import product
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.vector import VectorQuantized, vector_quantize


class Magnitudes(NamedTuple):
    """How hard the codes were pulled since the last reset."""

    total: Float[Array, "c k"]  # sum over batches of mean_d |gradient of code k of token c|
    batches: Int[Array, ""]  # since the last reset


def global_tokens(features: Float[Array, "n h w c"], projection: Float[Array, "heads m d"]) -> Float[Array, "n c d"]:
    """Channels as tokens: each channel's map of m = h w numbers is projected to d, t_c = P_head(c)^T f_c.

    The c channels are cut into `heads` equal runs, each with its own projection; they depend on m, so a model is tied
    to one size of image. A token says something about every place of the image.

    Args:
      features: `[n h w c]`.
      projection: `[heads m d]`.

    Returns:
      Tokens `[n c d]`.

    Raises:
      ValueError: for another number of places than m, or channels that the heads do not divide.

    Reference: Elsner, Usinger, Czech, Kobsik, He, Lim, Kobbelt, 'Quantised global autoencoder: a holistic approach to
    representing visual data', 2024, arXiv 2407.11913.
    """
    n, h, w, c = features.shape
    heads, places, _ = projection.shape
    if h * w != places or c % heads:
        raise ValueError(f"features {features.shape} and projection {projection.shape}: the projection wants {places} "
                         f"places, not {h * w}, and {heads} heads have to divide {c} channels")
    maps = features.reshape(n, places, heads, c // heads)
    return jnp.einsum("nmgc,gmd->ngcd", maps, projection).reshape(n, c, -1)


def inverse_global_tokens(tokens: Float[Array, "n c d"], projection: Float[Array, "heads e m"], height: int
                          ) -> Float[Array, "n h w c"]:
    """Tokens as channels: f_c = P_head(c)^T t_c, `[n c d]` with `[heads d m]` to features `[n h w c]` with m = h w.

    Args:
      tokens: `[n c d]`.
      projection: `[heads d m]`; that of `global_tokens` transposed where it is orthogonal.
      height: h.

    Raises:
      ValueError: for a height that does not divide m, tokens of another width, or heads that do not divide them.
    """
    n, c, d = tokens.shape
    heads, width, places = projection.shape
    if places % height or d != width or c % heads:
        raise ValueError(f"tokens {tokens.shape} and projection {projection.shape}: the projection wants width {width},"
                         f" {heads} heads have to divide {c} tokens, and the height {height} the {places} places")
    maps = jnp.einsum("ngcd,gdm->nmgc", tokens.reshape(n, heads, c // heads, d), projection)
    return maps.reshape(n, height, places // height, c)


def principal_projections(maps: Float[Array, "n m"], heads: int, width: int, key: Array, ordered: bool = False
                          ) -> Float[Array, "heads m d"]:
    """Projections to start from: parts of one basis, the principal components of maps.

    The columns of [P_1 ... P_heads] are a random rotation of the r = min(m, heads d) eigenvectors of sum_i f_i f_i^T
    with the largest eigenvalues: sum_h P_h P_h^T projects onto them, so that channels that are alike pass through
    `global_tokens`, and back by the transposed projections, with no more than the other eigenvalues lost. The rotation
    gives every head its share of all components; `ordered` has none, and head h begins with components h d .. of the
    falling eigenvalues.

    Args:
      maps: rows, such as grey images; not centred, so that their mean is among what passes.
      heads: number of projections.
      width: d.
      key: of the rotation.
      ordered: no rotation, where r = heads d.

    Returns:
      `[heads m d]`.

    >>> p = principal_projections(jax.random.normal(jax.random.key(0), (9, 6)), 3, 2, jax.random.key(1))
    >>> bool(jnp.abs(jnp.einsum("hmd,hnd->mn", p, p) - jnp.eye(6)).max() < 1e-5)
    True
    """
    maps = maps.astype(jnp.float32)
    rank = min(maps.shape[1], heads * width)
    moments = jnp.matmul(maps.T, maps, precision=lax.Precision.HIGHEST) / maps.shape[0]
    basis = jnp.linalg.eigh(moments)[1][:, ::-1][:, :rank]
    if not ordered or rank < heads * width:
        basis = basis @ jax.nn.initializers.orthogonal()(key, (rank, heads * width), jnp.float32)
    return jnp.moveaxis(basis.reshape(-1, heads, width), 1, 0)


def per_token_vq(z: Float[Array, "n c d"], codebooks: Float[Array, "t k w"]) -> VectorQuantized:
    """`vector_quantize` of every token with its own codebook: index_c = argmin_k |z_c - e_ck|.

    Args:
      z: tokens `[n c d]`.
      codebooks: `[c k d]`.

    Returns:
      `VectorQuantized` with indices `[n c]`; both losses `[n]` are means over tokens and channels.

    Raises:
      ValueError: for other numbers of tokens, or widths that differ.
    """
    tokens, _, width = codebooks.shape
    if z.shape[1:] != (tokens, width):
        raise ValueError(f"the encoder gives {z.shape[1]} tokens of width {z.shape[2]}, the codebooks are for {tokens} "
                         f"of width {width}: make them equal")
    found = jax.vmap(vector_quantize, (1, 0), 1)(z, codebooks)
    return found._replace(codebook_loss=found.codebook_loss.mean(1), commitment_loss=found.commitment_loss.mean(1))


def gradient_magnitudes(z: Float[Array, "n c d"], indices: Int[Array, "n c"], codebooks: Float[Array, "c k d"],
                        weight: float = 1.0, axis_name: str | None = None) -> Float[Array, "c k"]:
    """mean_d |gradient of each code| of the batch's mean of weight * codebook_loss, in closed form.

    The codebook loss is all that moves a code, and its gradient is 2 weight / (N c d) sum_{j -> k} (e_k - z_j) over
    the N examples of the global batch: so what a reset needs is known without the optimizer. It is 0 exactly for
    codes that nothing chose. Of a system that weighs the quantizer's loss, or clips, this is the gradient before.

    Args:
      z: tokens that were quantized; no gradient passes.
      indices: their codes.
      codebooks: before the update.
      weight: of the codebook loss.
      axis_name: the mapped axis over which the batch is spread.
    """
    z, codebooks = lax.stop_gradient((z.astype(jnp.float32), codebooks.astype(jnp.float32)))
    n, c, d = z.shape
    k = codebooks.shape[1]
    token = jnp.arange(c)
    pull = jnp.zeros((c, k, d)).at[token, indices].add(codebooks[token, indices] - z)
    mean = collectives.mean(pull / n, axis_name)
    return 2.0 * weight / (c * d) * jnp.abs(mean).mean(-1)


def voronoi_reset(codebooks: Float[Array, "c k d"], magnitudes: Float[Array, "c k"], key: Array,
                  epsilon: float = 1e-6, jitter: float = 1e-4) -> Float[Array, "c k d"]:
    """Puts unused codes beside those that were pulled hardest, so that a busy cell is split in two.

    In each codebook by itself the unused codes (magnitude 0), in order, go to the codes of largest magnitude, in
    order, each of which gives once: e_unused = e_busy + u, u uniform in +-jitter. It ends when no unused code is
    left, or no code with more than epsilon.

    Args:
      codebooks: `[c k d]`.
      magnitudes: accumulated `gradient_magnitudes`.
      key: of the jitter, the same on every replica.
      epsilon: magnitude that a code must exceed to be split.
      jitter: half the width of the noise.

    Returns:
      New codebooks.

    Reference: Elsner et al., 2024, arXiv 2407.11913.
    """
    unused = magnitudes == 0
    busiest = jnp.argsort(-magnitudes, axis=1)  # stable: ties to the lowest index
    turn = jnp.cumsum(unused, 1) - 1
    partner = jnp.take_along_axis(busiest, jnp.clip(turn, 0), 1)
    moved = unused & (jnp.take_along_axis(magnitudes, partner, 1) > epsilon)
    noise = jax.random.uniform(key, codebooks.shape, codebooks.dtype, -jitter, jitter)
    beside = jnp.take_along_axis(codebooks, partner[..., None], 1) + noise
    return jnp.where(moved[..., None], beside, codebooks)


def prefix_dropout_mask(key: Array, n: int, tokens: int, rate: float = 1 / 3, axis_name: str | None = None
                        ) -> Float[Array, "n c"]:
    """Masks that keep a prefix: with probability `rate` tokens t.. are 0, t uniform in 1 .. c - 1; else all are 1.

    A decoder that is trained so reads a coarse image from the first tokens. The token 0 is never dropped.

    Args:
      key: the same on every replica.
      n: examples of this replica.
      tokens: c, at least 2.
      rate: of examples that are cut.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      float32 `[n c]` of zeros and ones.

    Raises:
      ValueError: for fewer than two tokens.

    Reference: Elsner et al., 2024, arXiv 2407.11913.
    """
    if tokens < 2:
        raise ValueError(f"a prefix of {tokens} tokens cannot be cut: at least two")
    cut_key, length_key = jax.random.split(key)
    cut = collectives.draw(jax.random.uniform, cut_key, (n,), axis_name) < rate
    kept = collectives.draw(lambda key, shape: jax.random.randint(key, shape, 1, tokens), length_key, (n,), axis_name)
    return (jnp.arange(tokens) < jnp.where(cut, kept, tokens)[:, None]).astype(jnp.float32)


def per_token(tokens: int, width: int, codes: int, codebook_weight: float = 0.25, beta: float = 1.0,
              reset_every: int = 100, start: str = "uniform", axis_name: str | None = None) -> Quantizer:
    """`per_token_vq` as a quantizer of `z [n c d]`, with a Voronoi reset every `reset_every` updates.

    loss = codebook_weight mean (sg[z] - e)^2 + beta mean (z - sg[e])^2: the paper's weights are the reverse of
    VQ-VAE's. The indices `[n c]` are a sequence of c tokens, token c from codebook c. The gradient's magnitudes are
    accumulated by `quantize`, from their closed form; `after` resets by them and clears them.

    Codes start anywhere in +-1/2, as published: where the encoder's outputs lie close together they share a code or
    two, and the resets need log2 K rounds to bring all into use. With start='kmeans' `Quantizer.start` puts each
    token's codes onto clusters of its own vectors `[m c d]`, and all are in use from the first update.

    Args:
      tokens: c.
      width: d.
      codes: K of each codebook.
      codebook_weight: of the loss that moves the codes.
      beta: of the commitment loss.
      reset_every: updates between resets; 0 for none.
      start: 'uniform' or 'kmeans'.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A `Quantizer` whose codebooks `[c K d]` are learned and whose `Magnitudes` are moving; its metrics are codebook
      and commitment.

    Raises:
      ValueError: for another start; from `quantize`, for other numbers of tokens or another width; from `start` with
        fewer examples than codes.

    Reference: Elsner et al., 2024, arXiv 2407.11913.
    """
    if start not in ("uniform", "kmeans"):
        raise ValueError(f"start={start!r} must be 'uniform' or 'kmeans'")

    def init(key):
        codebooks = jax.random.uniform(key, (tokens, codes, width), minval=-0.5, maxval=0.5)
        return Codes(codebooks, Magnitudes(jnp.zeros((tokens, codes)), jnp.int32(0)) if reset_every else ())

    def quantize(z, state, key, train):
        found = per_token_vq(z, state.learned)
        if train and reset_every:
            more = gradient_magnitudes(z, found.indices, state.learned, codebook_weight, axis_name)
            state = state._replace(moving=Magnitudes(state.moving.total + more, state.moving.batches + 1))
        loss = codebook_weight * found.codebook_loss + beta * found.commitment_loss
        return Quantized(found.z_q, found.indices, loss, state,
                         {"codebook": found.codebook_loss, "commitment": found.commitment_loss})

    def reset(state, key):
        codebooks = voronoi_reset(state.learned, state.moving.total, key)
        return Codes(codebooks, jax.tree.map(jnp.zeros_like, state.moving))

    def after(state, key):
        return lax.cond(state.moving.batches >= reset_every, reset, lambda state, key: state, state, key)

    def lookup(indices, state):
        return state.learned[jnp.arange(tokens), indices]

    def clusters(vectors, state, key):
        return state._replace(learned=lax.map(lambda of_token: kmeans(of_token[0], codes, of_token[1]),
                                              (vectors.swapaxes(0, 1), jax.random.split(key, tokens))))

    return Quantizer(width=width, codes=codes, places=1, init=init, quantize=quantize, lookup=lookup,
                     start=clusters if start == "kmeans" else None, after=after if reset_every else None)


def per_token_ema(tokens: int, width: int, codes: int, beta: float = 1.0, decay: float = 0.99, revive: float = 0.01,
                  start: str = "kmeans", axis_name: str | None = None) -> Quantizer:
    """`per_token` whose codebooks follow the encoder by moving averages, as those of a VQ-VAE may.

    loss = beta mean (z - sg[e])^2. A codebook sees one vector of an example where that of a map sees one for each
    place, so that its averages want a shorter memory, or larger batches.

    Args:
      tokens: c.
      width: d.
      codes: K of each codebook.
      beta: of the commitment loss.
      decay, revive, start, axis_name: as in `vector`, for each token.

    Returns:
      A `Quantizer` of `z [n c d]`, with indices `[n c]`: a product of `vector`s, a head for each token.
    """
    one = vector(codes, width, beta=beta, decay=decay, revive=revive, start=start, axis_name=axis_name)
    heads = product(one, tokens)

    def quantize(z, state, key, train):
        found = heads.quantize(z.reshape(z.shape[0], -1), state, key, train)
        return found._replace(z_q=found.z_q.reshape(z.shape))

    def lookup(indices, state):
        return heads.lookup(indices, state).reshape(*indices.shape, width)

    def begin(vectors, state, key):
        return heads.start(vectors.reshape(vectors.shape[0], -1), state, key)

    return heads._replace(width=width, places=1, quantize=quantize, lookup=lookup,
                          start=begin if heads.start else None)
