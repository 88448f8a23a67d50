"""Autoregressive prior on integer maps with attention along one axis at a time: the Axial Transformer."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.axial import AxialEncoder, AxialTransformer, add, slices
from jaxae.nn.transformer import Positions
from jaxae.priors.base import Prior
from jaxae.priors.classes import check_label, guide, sampling_options, training_noise, with_null
from jaxae.priors.codes import beginning, check_codes, check_shape, choose
from jaxae.priors.outputs import output_of


class _AxialNet(nn.Module):
    """Logits of one channel of a map given its context: the channels before it, earlier frames, and the class."""

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
            self.positions = Positions(self.body.shape, width)

    def __call__(self, codes: Array, label: Array | None, deterministic: bool = True) -> Array:
        """All channels at once, folded into the batch: `[n *shape c]` to `[n *shape c out]`."""
        n, c = codes.shape[0], codes.shape[-1]
        x = self.tokens(codes, jnp.arange(c))
        before = jnp.cumsum(x, -2) - x

        def fold(x):
            return jnp.moveaxis(x, -2, 1).reshape(n * c, *codes.shape[1:-1], -1)

        def repeated(x):
            return None if x is None else jnp.repeat(x, c, 0)

        frames = self.outside(x.sum(-2), label, deterministic)
        context = self.context(fold(before), jnp.tile(jnp.arange(c), n), repeated(label), repeated(frames), (),
                               deterministic)
        logits = self.body.inside(fold(x), context, deterministic)
        return jnp.moveaxis(logits.reshape(n, c, *codes.shape[1:-1], -1), 1, -2)

    def one(self, codes: Array, channel: Array, label: Array | None, deterministic: bool = True) -> Array:
        """The channel [n] of each example alone: `[n *shape c]` to `[n *shape out]`."""
        x = self.tokens(codes, jnp.arange(self.channels))
        own, before = (jnp.take_along_axis(x, channel.reshape(-1, *[1] * (x.ndim - 1)), -2)[..., 0, :]
                       for x in (x, jnp.cumsum(x, -2) - x))
        frames = self.outside(x.sum(-2), label, deterministic)
        return self.body.inside(own, self.context(before, channel, label, frames, (), deterministic), deterministic)

    def tokens(self, codes: Array, channel: Array) -> Array:
        """Embedded pixels of channels that broadcast with the codes."""
        return self.embed(codes + self.levels * channel)

    def whole(self, codes: Array) -> Array:
        """Embedded pixels of all channels together."""
        return self.tokens(codes, jnp.arange(self.channels)).sum(-2)

    def outside(self, x: Array, label: Array | None, deterministic: bool = True) -> Array | None:
        """What earlier frames mean to each map; None of maps that have none."""
        return self.body.outside(x, self._given(x, label, None), deterministic)

    def context(self, before: Array, channel: Array, label: Array | None, frames: Array | None, place: tuple,
                deterministic: bool = True) -> Array | None:
        """What is known of a map before its channel: the sum of the embedded channels before, frames, and the class."""
        context = None
        if self.channels > 1:
            positions = slices(self.positions().reshape(*self.body.shape, -1), place, before.shape[1:-1])
            which = jnp.broadcast_to(self.which(channel), (before.shape[0], before.shape[-1]))
            which = which.reshape(-1, *[1] * (before.ndim - 2), before.shape[-1])
            context = self.encoder(add(before + positions + which, frames), deterministic)
        context = add(context, self._given(before, label, frames))
        return None if context is None else jnp.broadcast_to(context, before.shape)

    def before(self, codes: Array, channel: Array) -> Array:
        """The sum of the embedded channels before the `channel` that is being drawn."""
        each = self.tokens(codes, jnp.arange(self.channels))
        return jnp.where((jnp.arange(self.channels) < channel)[:, None], each, 0).sum(-2)

    def earlier(self, codes: Array, label: Array | None, frames: Array | None, place: tuple, caches: PyTree,
                axis: int) -> tuple[Array, PyTree]:
        """`above` along an axis before those of a map: what a frame that has been drawn means to the next one."""
        x = self.whole(codes)
        return self.body.above(x, self._given(x, label, frames), place, caches, axis)

    def above(self, *args) -> tuple[Array, PyTree]:
        return self.body.above(*args)

    def across(self, *args) -> tuple[Array, PyTree]:
        return self.body.across(*args)

    def _given(self, x, label, frames):
        of_class = self.label(label).reshape(-1, *[1] * (x.ndim - 2), x.shape[-1]) if self.num_classes else None
        return add(of_class, frames)


def axial(
    shape: tuple[int, ...],
    levels: int,
    num_classes: int = 0,
    width: int = 128,
    outer: int | tuple[int, ...] = 2,
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
    prefix: int = 0,
) -> Prior:
    """Prior on integer maps or videos by an Axial Transformer: exact likelihoods in one pass, sampling row by row.

        log p(z | y) = sum_t sum_c sum_ij log softmax(net(z_tc before (i, j); z_t,<c; z_<t, y))[z_tcij]

    Frames, where there are several, follow one another, in each its channels, each a map in raster order given an
    encoding of the channels before it in the frame and what all channels of earlier frames mean to it, by one network
    for all. Attention goes along rows, columns and time, so a pass costs O(t h w (t + h + w)).

    Args:
      shape: of one map, `(h, w)` or `(h, w, c)`, of a video, `(t, h, w, c)`, or with one more axis before these.
      levels: number of values; integers in `[0, levels)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`. Label `num_classes` is the
        null class.
      width: of tokens and layers.
      outer: pairs of row and column blocks over the rows above; with 0 rows are independent of one another. Of videos
        also the number of row, column and time blocks over earlier frames, or `(frames, rows)` for either.
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
        of the cost of blocks within frames; `log_prob` stays exact.
      prefix: rows of maps, or frames of videos, that are always given: `log_prob` is that of what follows them, and
        `sample` needs them as `given`.

    Returns:
      A `Prior`. `log_prob(params, latents, label=None, key=None)` gives float32 `[n]`, nats per map (NaN where a value
      or label is out of range); divided by `-log(2) h w c` it is bits per dimension. `sample(params, key, n,
      label=None, temperature=1.0, guidance=1.0, top_k=None, semi_parallel=True, given=None)` gives int32 `[n, *shape]`,
      options as in `transformer`; the blocks over frames run once a frame, on the frame before alone, the encoder once
      a channel, the blocks over rows once a row, on the row before alone, and the inner blocks once a pixel.
      `semi_parallel=False` computes everything anew for each pixel. Samples begin with the rows `given [n r ...]`,
      those of every channel, or with the frames.

    Raises:
      ValueError: for impossible shapes, shares or prefixes, latents that are not integers of this shape, a missing
        label of a class-conditional prior, guidance without classes, or `top_k` below 1.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 'Axial attention in multidimensional transformers', 2019,
    arXiv 1912.12180.

    >>> prior = axial((4, 4), levels=8, width=16, outer=1, inner=1, heads=2)
    >>> maps = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), maps)
    >>> prior.log_prob(params, maps).shape, prior.sample(params, jax.random.key(1), 2).shape
    ((3,), (2, 4, 4))
    """
    shape = check_shape("axial", shape, (2, 3, 4, 5), levels, num_classes, label_dropout, prefix)
    sizes, channels = (shape, 1) if len(shape) == 2 else (shape[:-1], shape[-1])
    *_, h, w = sizes
    head = output_of(output, levels, components)
    body = AxialTransformer(head.size, sizes, width, outer, inner, heads, mlp_ratio, dropout, axis_name, dtype)
    net = _AxialNet(levels, channels, num_classes, body,
                    AxialEncoder(encoder, heads, mlp_ratio, dropout, axis_name, dtype))

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape)[:1].reshape(1, *sizes, channels)
        return net.init(key, codes, None if label is None else label[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, *sizes, channels)
        label, rngs = training_noise(label, key, num_classes, label_dropout, axis_name)
        out = net.apply({"params": params}, codes, label, key is None, rngs=rngs)
        return total(head.log_prob(out, codes))

    def total(nats: Array) -> Array:
        return nats[:, prefix:].sum(tuple(range(1, nats.ndim)))

    def loss(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None,
             key: Array) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, *sizes, channels)
        keys = collectives.split_keys(key, ("channel", "rest"))
        channel = collectives.draw(lambda key, shape: jax.random.randint(key, shape, 0, channels), keys["channel"],
                                   codes.shape[:1], axis_name)
        label, rngs = training_noise(label, keys["rest"], num_classes, label_dropout, axis_name)
        out = net.apply({"params": params}, codes, channel, label, False, rngs=rngs, method="one")
        own = jnp.take_along_axis(codes, channel.reshape(-1, *[1] * (codes.ndim - 1)), -1)[..., 0]
        return -channels * total(head.log_prob(out, own))

    @partial(jax.jit, static_argnames=("n", "guided", "top_k", "semi_parallel"))
    def draw(params, key, n, label, temperature, guidance, given, kept, guided, top_k, semi_parallel):
        label, copies = with_null(label, num_classes, guided), 1 + guided
        given = given.reshape(n, *sizes, channels)
        order = (*sizes[:-2], channels, h, w)  # frames, in each its channels, in each its pixels

        def call(method, *args):
            return net.apply({"params": params}, *args, method=method)

        def copied(codes):
            return jnp.tile(codes, (copies, *[1] * (codes.ndim - 1)))

        def pick(out, c, place):
            *frame, i, j = place
            number = 0
            for size, at in zip(order, (*frame, c, i, j), strict=True):
                number = number * size + at
            logits = guide(head.logits(out), guidance, guided)
            code = choose(jax.random.fold_in(key, number), logits, temperature, top_k)
            return jnp.where(place[0] < kept, given[(slice(None), *place, c)], code)

        def one_of(x, axis, i):
            return None if x is None else lax.dynamic_slice_in_dim(x, i, 1, axis)

        def drawn_from(place, frames):
            """Codes of all that is at this place in the first axes, given what was drawn before."""
            axis = len(place)
            if axis == len(sizes) - 2:
                codes = jnp.zeros((n, *[1] * axis, h, w, channels), jnp.int32)
                return lax.scan(partial(channel, place, frames), codes, jnp.arange(channels))[0]

            def one(carry, i):
                u, caches = carry
                here, known = (*place, i), one_of(frames, axis + 1, i)
                codes = drawn_from(here, add(known, u))
                return call("earlier", copied(codes), label, known, here, caches, axis), codes.squeeze(axis + 1)

            u = jnp.zeros((copies * n, *[1] * (axis + 1), *sizes[axis + 1:], width), dtype)
            codes = lax.scan(one, (u, body.start_above(copies * n, axis)), jnp.arange(sizes[axis]))[1]
            return jnp.moveaxis(codes, 0, axis + 1)

        def channel(place, frames, codes, c):
            context = call("context", call("before", copied(codes), c), c, label, frames, place)
            ones = (1,) * len(place)

            def part(i, j):
                row = one_of(context, len(place) + 1, i)
                return row if j is None else one_of(row, len(place) + 2, j)

            def row(carry, i):
                u, caches = carry

                def pixel(carry, j):
                    code, caches = carry
                    left = jnp.where(j > 0, call("tokens", copied(code), c), 0).reshape(-1, *ones, 1, 1, width)
                    out, caches = call("across", left, one_of(u, len(place) + 2, j), part(i, j), (*place, i, j), caches)
                    code = pick(out.reshape(copies * n, -1), c, (*place, i, j))
                    return (code, caches), code

                start = jnp.zeros(n, jnp.int32), body.start_across(copies * n)
                drawn = lax.scan(pixel, start, jnp.arange(w))[1].T  # [n w]
                x = call("tokens", copied(drawn), c).reshape(-1, *ones, 1, w, width)
                return call("above", x, part(i, None), (*place, i), caches), drawn

            u = jnp.zeros((copies * n, *ones, 1, w, width), dtype)
            drawn = lax.scan(row, (u, body.start_above(copies * n)), jnp.arange(h))[1]  # [h n w]
            return codes.at[..., c].set(drawn.swapaxes(0, 1).reshape(codes.shape[:-1])), None

        def anew(codes, t):
            *frame, c, i, j = jnp.unravel_index(t, order)
            at = (slice(None), *frame, i, j, c)
            out = net.apply({"params": params}, copied(codes), label)[at]
            return codes.at[at].set(pick(out, c, (*frame, i, j))), None

        if semi_parallel:
            codes = drawn_from((), None)
        else:
            codes = lax.scan(anew, jnp.zeros(given.shape, jnp.int32), jnp.arange(given[0].size))[0]
        return codes.reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               top_k: int | None = None, semi_parallel: bool = True,
               given: Int[Array, "n r ..."] | None = None) -> Int[Array, "n ..."]:
        label, guided = sampling_options(label, n, num_classes, guidance, top_k)
        return draw(params, key, n, label, jnp.float32(temperature), jnp.float32(guidance),
                    *beginning(given, n, shape, prefix), guided, top_k, semi_parallel)

    return Prior(init, log_prob, sample, loss=loss if one_channel and channels > 1 else None)
