"""Autoregressive prior on integer maps with attention along one axis at a time: the Axial Transformer."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.axial import AxialEncoder, AxialTransformer
from jaxae.nn.transformer import Positions
from jaxae.priors.base import Prior
from jaxae.priors.classes import check_label, guide, sampling_options, training_noise, with_null
from jaxae.priors.codes import beginning, check_codes, check_shape, choose
from jaxae.priors.outputs import output_of


class _AxialNet(nn.Module):
    """Logits of one channel of a map given its context: the channels before it, and the class."""

    levels: int
    channels: int
    num_classes: int
    body: AxialTransformer
    encoder: AxialEncoder

    def setup(self):
        width = self.body.width
        self.embed = nn.Embed(self.channels * self.levels, width)
        if self.num_classes:
            self.label = nn.Embed(self.num_classes + 1, width)
        if self.channels > 1:
            self.which = nn.Embed(self.channels, width)
            self.positions = Positions(self.body.shape, width, std=width**-0.5)

    def __call__(self, codes: Array, label: Array | None, deterministic: bool = True) -> Array:
        """All channels at once, folded into the batch: `[n h w c]` to `[n h w c out]`."""
        n, h, w, c = codes.shape
        x = self.tokens(codes, jnp.arange(c))
        before = jnp.cumsum(x, 3) - x

        def fold(x):
            return jnp.moveaxis(x, 3, 1).reshape(n * c, h, w, -1)

        repeated = None if label is None else jnp.repeat(label, c)
        context = self.context(fold(before), jnp.tile(jnp.arange(c), n), repeated, deterministic)
        logits = self.body(fold(x), context, deterministic)
        return jnp.moveaxis(logits.reshape(n, c, h, w, -1), 1, 3)

    def one(self, codes: Array, channel: Array, label: Array | None, deterministic: bool = True) -> Array:
        """The channel [n] of each example alone: `[n h w c]` to `[n h w out]`."""
        x = self.tokens(codes, jnp.arange(self.channels))
        own, before = (jnp.take_along_axis(x, channel[:, None, None, None, None], 3)[:, :, :, 0]
                       for x in (x, jnp.cumsum(x, 3) - x))
        return self.body(own, self.context(before, channel, label, deterministic), deterministic)

    def tokens(self, codes: Array, channel: Array) -> Array:
        """Embedded pixels of channels that broadcast with the codes."""
        return self.embed(codes + self.levels * channel)

    def context(self, before: Array, channel: Array, label: Array | None, deterministic: bool = True) -> Array | None:
        """What is known of the map before its channel: the sum of the embedded channels before, and the class."""
        context = None
        if self.channels > 1:
            positions = self.positions().reshape(*self.body.shape, -1)
            which = jnp.broadcast_to(self.which(channel), (before.shape[0], before.shape[-1]))[:, None, None]
            context = self.encoder(before + positions + which, deterministic)
        if self.num_classes:
            of_class = self.label(label)[:, None, None]
            context = of_class if context is None else context + of_class
        return None if context is None else jnp.broadcast_to(context, before.shape)

    def before(self, codes: Array, channel: Array) -> Array:
        """The sum of the embedded channels before the `channel` that is being drawn."""
        each = self.tokens(codes, jnp.arange(self.channels))
        return jnp.where((jnp.arange(self.channels) < channel)[:, None], each, 0).sum(3)

    def above(self, *args) -> tuple[Array, PyTree]:
        return self.body.above(*args)

    def across(self, *args) -> tuple[Array, PyTree]:
        return self.body.across(*args)


def axial(
    shape: tuple[int, ...],
    levels: int,
    num_classes: int = 0,
    width: int = 128,
    outer: int = 2,
    inner: int = 2,
    encoder: int = 2,
    heads: int = 4,
    mlp_ratio: int | float = 4,
    dropout: float = 0.0,
    label_dropout: float = 0.0,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    output: str = "softmax",
    components: int = 10,
    one_channel: bool = False,
) -> Prior:
    """Prior on integer maps by an Axial Transformer: exact likelihoods in one pass, sampling row by row.

        log p(z | y) = sum_c sum_ij log softmax(net(z_c before (i, j); z_<c, y))[z_cij]

    Channels follow one another, each a map in raster order given an encoding of all the channels before it, by one
    network for all channels. Attention goes along rows and columns, so a pass costs O(h w (h + w)).

    Args:
      shape: of one map: `(h, w)` or `(h, w, c)`.
      levels: number of values; integers in `[0, levels)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`. Label `num_classes` is the
        null class.
      width: of tokens and layers.
      outer: pairs of row and column blocks over the rows above; with 0 rows are independent of one another.
      inner: row blocks over the pixels on the left.
      encoder: pairs of blocks over the channels before; there where c > 1.
      heads: of each attention; `width` must be a multiple.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      dropout: rate, active where `log_prob` is given a key.
      label_dropout: share of labels replaced by the null class where `log_prob` is given a key; what guidance needs.
      axis_name: mapped axis over which the batch is spread, for the noise of both dropouts.
      dtype: computation of the network; logits are float32.
      output: 'softmax', or for ordered values, such as grey levels, 'logistic_mixture'; see `outputs`.
      components: of the mixture.
      one_channel: training takes c times the nats of one channel of each map, drawn at random, without bias and at 1/c
        of the cost; `log_prob` stays exact.

    Returns:
      A `Prior`. `log_prob(params, latents, label=None, key=None)` gives float32 `[n]`, nats per map (NaN where a value
      or label is out of range); divided by `-log(2) h w c` it is bits per dimension. `sample(params, key, n,
      label=None, temperature=1.0, guidance=1.0, top_k=None, semi_parallel=True, given=None)` gives int32 `[n, *shape]`,
      options as in `transformer`; the encoder runs once a channel, the outer blocks once a row, on the row before
      alone, and the inner blocks once a pixel. `semi_parallel=False` computes everything anew for each pixel. Samples
      begin with the rows `given [n r ...]`, those of every channel.

    Raises:
      ValueError: for impossible shapes or shares, latents that are not integers of this shape, a missing label of a
        class-conditional prior, guidance without classes, or `top_k` below 1.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 'Axial attention in multidimensional transformers', 2019,
    arXiv 1912.12180.

    >>> prior = axial((4, 4), levels=8, width=16, outer=1, inner=1, heads=2)
    >>> maps = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), maps)
    >>> prior.log_prob(params, maps).shape, prior.sample(params, jax.random.key(1), 2).shape
    ((3,), (2, 4, 4))
    """
    shape = check_shape("axial", shape, (2, 3), levels, num_classes, label_dropout)
    h, w, channels = (*shape, 1)[:3]
    head = output_of(output, levels, components)
    body = AxialTransformer(head.size, (h, w), width, outer, inner, heads, mlp_ratio, dropout, axis_name, dtype)
    net = _AxialNet(levels, channels, num_classes, body,
                    AxialEncoder(encoder, heads, mlp_ratio, dropout, axis_name, dtype))

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape)[:1].reshape(1, h, w, channels)
        return net.init(key, codes, None if label is None else label[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, h, w, channels)
        label, rngs = training_noise(label, key, num_classes, label_dropout, axis_name)
        out = net.apply({"params": params}, codes, label, key is None, rngs=rngs)
        return head.log_prob(out, codes).sum((1, 2, 3))

    def loss(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None,
             key: Array) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, h, w, channels)
        keys = collectives.split_keys(key, ("channel", "rest"))
        channel = collectives.draw(lambda key, shape: jax.random.randint(key, shape, 0, channels), keys["channel"],
                                   codes.shape[:1], axis_name)
        label, rngs = training_noise(label, keys["rest"], num_classes, label_dropout, axis_name)
        out = net.apply({"params": params}, codes, channel, label, False, rngs=rngs, method="one")
        own = jnp.take_along_axis(codes, channel[:, None, None, None], 3)[..., 0]
        return -channels * head.log_prob(out, own).sum((1, 2))

    @partial(jax.jit, static_argnames=("n", "guided", "top_k", "semi_parallel"))
    def draw(params, key, n, label, temperature, guidance, given, rows, guided, top_k, semi_parallel):
        label, copies = with_null(label, num_classes, guided), 1 + guided

        def call(method, *args):
            return net.apply({"params": params}, *args, method=method)

        def copied(codes):
            return jnp.tile(codes, (copies, *[1] * (codes.ndim - 1)))

        given = given.reshape(n, h, w, channels)

        def pick(out, c, i, j):
            logits = guide(head.logits(out), guidance, guided)
            code = choose(jax.random.fold_in(key, (c * h + i) * w + j), logits, temperature, top_k)
            return jnp.where(i < rows, given[:, i, j, c], code)

        def channel(codes, c):
            context = call("context", call("before", copied(codes), c), c, label)

            def part(row, column, columns):
                if context is None:
                    return None
                return lax.dynamic_slice(context, (0, row, column, 0), (copies * n, 1, columns, width))

            def row(carry, i):
                u, caches = carry

                def pixel(carry, j):
                    code, caches = carry
                    left = jnp.where(j > 0, call("tokens", copied(code), c), 0)[:, None, None]
                    logits, caches = call("across", left, lax.dynamic_slice_in_dim(u, j, 1, 2), part(i, j, 1), i, j,
                                          caches)
                    code = pick(logits[:, 0, 0], c, i, j)
                    return (code, caches), code

                start = jnp.zeros(n, jnp.int32), body.start_across(copies * n)
                drawn = lax.scan(pixel, start, jnp.arange(w))[1].T  # [n w]
                x = call("tokens", copied(drawn), c)[:, None]
                return call("above", x, part(i, 0, w), i, caches), drawn

            u = jnp.zeros((copies * n, 1, w, width), dtype)
            drawn = lax.scan(row, (u, body.start_above(copies * n)), jnp.arange(h))[1]  # [h n w]
            return codes.at[..., c].set(drawn.swapaxes(0, 1)), None

        def anew(codes, t):
            c, i, j = t // (h * w), t // w % h, t % w
            logits = net.apply({"params": params}, copied(codes), label)[:, i, j, c]
            return codes.at[:, i, j, c].set(pick(logits, c, i, j)), None

        codes = jnp.zeros((n, h, w, channels), jnp.int32)
        if semi_parallel:
            codes = lax.scan(channel, codes, jnp.arange(channels))[0]
        else:
            codes = lax.scan(anew, codes, jnp.arange(channels * h * w))[0]
        return codes.reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               top_k: int | None = None, semi_parallel: bool = True,
               given: Int[Array, "n r ..."] | None = None) -> Int[Array, "n ..."]:
        label, guided = sampling_options(label, n, num_classes, guidance, top_k)
        return draw(params, key, n, label, jnp.float32(temperature), jnp.float32(guidance),
                    *beginning(given, n, shape), guided, top_k, semi_parallel)

    return Prior(init, log_prob, sample, loss=loss if one_channel and channels > 1 else None)
