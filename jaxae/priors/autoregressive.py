"""Autoregressive prior on discrete codes: a gated PixelCNN over the embedded code map."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae.nn.pixelcnn import PixelCNN
from jaxae.priors.base import Prior
from jaxae.priors.codes import beginning, choose
from jaxae.priors.outputs import output_of


class _CodeNet(nn.Module):
    num_codes: int
    num_classes: int
    embed: int
    body: PixelCNN

    @nn.compact
    def __call__(self, codes: Array, label: Array | None, deterministic: bool = True) -> Array:
        x = nn.Embed(self.num_codes, self.embed, name="embed")(codes)  # [n h w embed]
        # A one-hot condition gives each class its own bias in every gate.
        vector = jax.nn.one_hot(label, self.num_classes) if self.num_classes else None
        return self.body(x, vector, deterministic=deterministic)


def autoregressive(
    shape: tuple[int, ...],
    num_codes: int,
    num_classes: int = 0,
    hidden: int = 64,
    layers: int = 5,
    kernel: int = 3,
    first_kernel: int = 7,
    embed: int = 32,
    dropout: float = 0.0,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    output: str = "softmax",
    components: int = 10,
) -> Prior:
    """Prior on integer code maps, one categorical for each code given the codes before it.

        log p(z | y) = sum_t log softmax(net(z_1 .. z_{t-1}, y))[z_t]

    Codes are ordered row by row. `sample` draws one code after the other, with one pass of the network for
    each position inside one compiled loop; its extra argument `temperature` divides the logits (0 takes the
    likeliest code each time), and `given [n r ...]` are the rows that samples begin with. Trained by gradient: `fit`
    is None.

    Args:
      shape: of one code map, `(h, w)`, or `(t,)` for a sequence.
      num_codes: size of the codebook; codes are integers in `[0, num_codes)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      hidden: channels of the PixelCNN.
      layers: its gated layers.
      kernel: odd kernel width of its layers after the first.
      first_kernel: odd kernel width of its first layer. See `PixelCNN` for the receptive field: the defaults
        see all of a map 7 codes wide, but only 7 codes back in a sequence.
      embed: dimensions of a code's embedding.
      dropout: rate, active where `log_prob` is given a key.
      axis_name: mapped axis over which the batch is spread, for dropout's noise.
      dtype: computation of the network.
      output: 'softmax', or for ordered values, such as grey levels, 'logistic_mixture'; see `outputs`.
      components: of the mixture.

    Returns:
      A `Prior`. `init(key, latents, label=None)` gives the parameters, which do not depend on the values of
      `latents`; `log_prob(params, latents, label=None, key=None)` gives float32 `[n]`, nats per map (NaN
      where a code lies outside the codebook); `sample(params, key, n, label=None, temperature=1.0, given=None)`
      gives int32 `[n, *shape]`.

    Raises:
      ValueError: for a shape that has not one or two axes, codes that are not integers of this shape, or a
        missing label of a class-conditional prior.

    Reference: van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016,
    arXiv 1606.05328; as a prior on codes: van den Oord, Vinyals, Kavukcuoglu, "Neural discrete
    representation learning", 2017, arXiv 1711.00937.

    >>> prior = autoregressive((4, 4), num_codes=8, hidden=16, layers=2)
    >>> codes = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), codes)
    >>> prior.log_prob(params, codes).shape, prior.sample(params, jax.random.key(1), 2).shape
    ((3,), (2, 4, 4))
    """
    shape = tuple(shape)
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise ValueError(f"autoregressive needs the shape of one code map, (h, w) or (t,); got {shape}.")
    if num_codes < 1:
        raise ValueError(f"autoregressive needs num_codes >= 1; got {num_codes}.")
    height, width = (1, *shape)[-2:]
    head = output_of(output, num_codes, components)
    body = PixelCNN(head.size, hidden, layers, kernel, first_kernel, dropout, axis_name, dtype)
    net = _CodeNet(num_codes, num_classes, embed, body)

    def check_label(label: Array | None, n: int) -> None:
        if num_classes and (label is None or label.shape != (n,)):
            got = "None" if label is None else f"shape {label.shape}"
            raise ValueError(f"a prior with num_classes={num_classes} needs integer label [{n}]; got {got}.")

    def as_maps(latents: Array) -> Array:
        if latents.shape[1:] != shape or not jnp.issubdtype(latents.dtype, jnp.integer):
            raise ValueError(f"expected integer codes [n, {', '.join(map(str, shape))}]; "
                             f"got {latents.dtype} {latents.shape}.")
        return latents.reshape(-1, height, width)

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        check_label(label, latents.shape[0])
        return net.init(key, as_maps(latents)[:1], None if label is None else label[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        check_label(label, latents.shape[0])
        codes = as_maps(latents)
        rngs = None if key is None else {"dropout": key}
        out = net.apply({"params": params}, codes, label, key is None, rngs=rngs)
        return head.log_prob(out, codes).sum((1, 2))

    def logits(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None
               ) -> Float[Array, "n ..."]:
        check_label(label, latents.shape[0])
        out = net.apply({"params": params}, as_maps(latents), label)
        return head.logits(out).reshape(*latents.shape, num_codes)

    @partial(jax.jit, static_argnums=2)
    def draw(params: PyTree, key: Array, n: int, label: Array | None, temperature: Array, given: Array,
             rows: Array) -> Array:
        kept, given = rows * (height * width // shape[0]), given.reshape(n, height, width)

        def step(t: Array, codes: Array) -> Array:
            i, j = t // width, t % width
            logits = head.logits(net.apply({"params": params}, codes, label)[:, i, j])  # [n num_codes]
            code = choose(jax.random.fold_in(key, t), logits, temperature)
            return codes.at[:, i, j].set(jnp.where(t < kept, given[:, i, j], code))

        codes = jnp.zeros((n, height, width), jnp.int32)
        return lax.fori_loop(0, height * width, step, codes).reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0,
               given: Int[Array, "n r ..."] | None = None) -> Int[Array, "n ..."]:
        check_label(label, n)
        return draw(params, key, n, label, jnp.asarray(temperature, jnp.float32), *beginning(given, n, shape))

    return Prior(init, log_prob, sample, logits=logits)
