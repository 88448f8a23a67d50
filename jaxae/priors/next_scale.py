"""Next-scale prior on multi-scale codes: a block-causal transformer that predicts all codes of a scale at once."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxae.distributions import categorical_log_prob
from jaxae.losses.diffusion import guide
from jaxae.nn.denoise import ModulatedBlock, modulated_norm, modulation
from jaxae.priors.base import Prior
from jaxae.priors.classes import hide, rows_of, sampling_options
from jaxae.priors.codes import choose
from jaxae.quantizers.multi_scale import METHODS, Scales, downsample, scale_sizes, split_scales, upsample


class _BlockCausalAttention(nn.Module):
    """Self-attention in which a token sees its own scale and those before; a sequence may stop after any scale."""

    heads: int
    counts: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = np.repeat(np.arange(len(self.counts)), self.counts)[:x.shape[1]]
        layer = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, force_fp32_for_softmax=True, name="heads")
        return layer(x, mask=jnp.asarray(scale[:, None] >= scale)[None, None])


class _Net(nn.Module):
    sizes: tuple[tuple[int, int], ...]
    num_codes: int
    num_classes: int
    codebook: Array | None
    embed: int
    width: int
    depth: int
    heads: int
    method: str
    dtype: Any

    @nn.compact
    def __call__(self, indices: Array, rows: Array) -> Array:
        """Logits of the scales in `indices` [n l] and of the next one, [n l' num_codes]; not all scales are given."""
        n, counts = indices.shape[0], tuple(h * w for h, w in self.sizes)
        small, wide = nn.initializers.normal(0.02), nn.initializers.normal(1.0)
        table = self.codebook
        if table is None:
            table = self.param("codes", wide, (self.num_codes, self.embed), jnp.float32)
        c = nn.Embed(self.num_classes + 1, self.width, name="label")(rows)
        start = self.param("start", small, (counts[0], self.width), jnp.float32)
        position = self.param("position", wide, (sum(counts), self.width), jnp.float32)  # as large as what is read

        given = split_scales(indices, self.sizes)
        project, total, parts = nn.Dense(self.width, dtype=self.dtype, name="in"), 0.0, []
        for codes, size in zip(given, self.sizes[1:], strict=False):
            total = total + upsample(table[codes].astype(jnp.float32), self.sizes[-1], self.method)
            parts.append(project(downsample(total, size).reshape(n, -1, table.shape[1])))
        x = jnp.concatenate([c[:, None] + start, *parts], axis=1)
        x = (x + position[:x.shape[1]]).astype(self.dtype)

        c = nn.silu(c)
        for i in range(self.depth):
            attention = _BlockCausalAttention(self.heads, counts, self.dtype, name=f"attention{i}")
            x = ModulatedBlock(attention, dtype=self.dtype, name=f"block{i}")(x, c)
        x = modulated_norm(self, x, *modulation(self, c, 2, self.width, "modulation"), "norm")
        out = nn.Dense(self.num_codes, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(x)
        return out.astype(jnp.float32)


def next_scale(
    scales: Scales,
    num_codes: int,
    num_classes: int = 0,
    codebook: Float[Array, "k d"] | None = None,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    embed: int = 32,
    method: str = "cubic",
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Prior:
    """Prior on the codes of `multi_scale`, one factor for each scale and not for each code.

        log p(z | y) = sum_k sum_{i in scale k} log softmax(net(z_1 .. z_{k-1}, y)_i)[z_k,i]

    The codes of a scale are independent given the scales before. What the network reads at scale k is the sum of the
    upsampled codes of the scales before, downsampled to the size of scale k: with `codebook` these are the quantizer's
    own vectors, so that it reads the very map that the decoder would be given; without, a table of embeddings that is
    learned with the network, so that codes and scales are all it must know. A new network is uniform.

    Args:
      scales: sides (or (h, w)) from coarse to fine, as the quantizer's.
      num_codes: size of the codebook; codes are integers in `[0, num_codes)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      codebook: the quantizer's vectors `[num_codes d]`, constants here; None for learned embeddings.
      width, depth, heads: of the transformer.
      embed: dimensions of the learned embeddings.
      method: of upsampling, 'cubic' or 'linear', as the quantizer's.
      label_dropout: share of examples whose label is hidden in `loss`, for guidance.
      axis_name: mapped axis over which the batch is spread, for the noise of `loss`.
      dtype: computation of the network.

    Returns:
      A `Prior` of sequences `[n L]`, L = sum of h w over the scales. `log_prob(params, latents, label=None, key=None)`
      gives nats per sequence (NaN where a code lies outside the codebook); `loss` is minus that with labels hidden at
      random, and None where there are no classes; `sample(params, key, n, label=None, guidance=1.0, temperature=1.0,
      top_k=0)` draws a scale at a time with one pass over the scales so far (without a cache; all codes of a scale in
      parallel). guidance rises linearly over the scales from 1; temperature divides the logits (0 takes the likeliest);
      top_k keeps the largest logits of each code, 0 all.

    Raises:
      ValueError: for scales, codes or options that do not fit, or a label missing where there are classes.

    Reference: Tian et al., 'Visual autoregressive modeling: scalable image generation via next-scale prediction', 2024,
    arXiv 2404.02905.

    >>> prior = next_scale((1, 2), num_codes=8, width=16, depth=1)
    >>> params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, 5), jnp.int32))
    >>> f'{jax.jit(prior.log_prob)(params, jnp.zeros((3, 5), jnp.int32))[0]:.3f}'  # -5 log 8
    '-10.397'
    """
    sizes = scale_sizes(scales)
    if num_codes < 1 or method not in METHODS:
        raise ValueError(f"next_scale needs num_codes={num_codes} of at least 1 and method={method!r} of {METHODS}")
    if codebook is not None and codebook.shape[0] != num_codes:
        raise ValueError(f"the codebook holds {codebook.shape[0]} codes, but num_codes={num_codes}: make them equal")
    length, last = sum(h * w for h, w in sizes), sizes[-1][0] * sizes[-1][1]
    net = _Net(sizes, num_codes, num_classes, codebook, embed, width, depth, heads, method, dtype)

    def check(latents: Array) -> None:
        if latents.shape[1:] != (length,) or not jnp.issubdtype(latents.dtype, jnp.integer):
            raise ValueError(f"expected integer codes [n, {length}] of the scales {sizes}; "
                             f"got {latents.dtype} {latents.shape}")

    def nats(params, codes, rows):
        logits = net.apply({"params": params}, codes[:, :length - last], rows)
        return categorical_log_prob(codes, logits).sum(1)

    def init(key: Array, latents: Int[Array, "n l"], label: Int[Array, " n"] | None = None) -> PyTree:
        check(latents)
        return net.init(key, latents[:1, :length - last], rows_of(label, latents.shape[0], num_classes)[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n l"], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        check(latents)
        return nats(params, latents, rows_of(label, latents.shape[0], num_classes))

    def loss(params: PyTree, latents: Int[Array, "n l"], label: Int[Array, " n"] | None, key: Array
             ) -> Float[Array, " n"]:
        check(latents)
        rows = rows_of(label, latents.shape[0], num_classes)
        return -nats(params, latents, hide(key, rows, num_classes, label_dropout, axis_name))

    @partial(jax.jit, static_argnames=("n", "top_k", "is_guided"))
    def draw(params, key, rows, guidance, temperature, n, top_k, is_guided):
        codes = jnp.zeros((n, 0), jnp.int32)
        for k, (h, w) in enumerate(sizes):
            read, row = codes, rows
            if is_guided:
                read, row = jnp.concatenate([codes, codes]), jnp.concatenate([rows, jnp.full_like(rows, num_classes)])
            logits = net.apply({"params": params}, read, row)[:, -h * w:]  # [n hw num_codes]
            if is_guided:
                share = k / (len(sizes) - 1) if len(sizes) > 1 else 1.0
                logits = guide(*jnp.split(logits, 2), 1.0 + (guidance - 1.0) * share)
            chosen = choose(jax.random.fold_in(key, k), logits, temperature, top_k)
            codes = jnp.concatenate([codes, chosen], axis=1)
        return codes

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               guidance: float | Float[Array, ""] = 1.0, temperature: float | Float[Array, ""] = 1.0,
               top_k: int | None = None) -> Int[Array, "n l"]:
        _, guided = sampling_options(label, n, num_classes, guidance, top_k)
        return draw(params, key, rows_of(label, n, num_classes), jnp.float32(guidance), jnp.float32(temperature), n,
                    top_k, guided)

    return Prior(init, log_prob, sample, loss=loss if num_classes else None)
