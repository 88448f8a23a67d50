"""Autoregressive prior on discrete codes: a causal transformer with a start token for the class, and a cache."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae.nn.transformer import Cache, Transformer
from jaxae.priors.base import Prior
from jaxae.priors.classes import check_label, guide, sampling_options, training_noise, with_null
from jaxae.priors.codes import beginning, check_codes, check_shape, choose, codebooks_of
from jaxae.priors.outputs import output_of


class CausalTransformer(nn.Module):
    """What each code may be given the codes before it and the class: `[n t]` integers to `[n t out]`.

    Attributes:
      num_codes: size of the codebook.
      num_classes: 0, or number of classes; label `num_classes` is the null class.
      body: causal; its outputs are logits of the codes, or parameters of another `Output`, and its `shape` is that of
        a code map.
      inputs: 'codes' for an embedding of each code, 'values' for one that is linear in it.
      codebook_axis: axis of the map along which codebooks, and so embeddings, differ; see `codebooks_of`.
    """

    num_codes: int
    num_classes: int
    body: Transformer
    inputs: str = "codes"
    codebook_axis: int | None = None

    def setup(self):
        books = 1 + int(codebooks_of(self.body.shape, self.codebook_axis).max())
        if self.inputs not in ("codes", "values"):
            raise ValueError(f"inputs={self.inputs!r} must be 'codes' or 'values'.")
        if self.inputs == "values":
            self.slope, self.offset = nn.Embed(books, self.body.width), nn.Embed(books, self.body.width)
        else:
            self.embed = nn.Embed(books * self.num_codes, self.body.width)
        self.first = nn.Embed(self.num_classes + 1, self.body.width)

    def __call__(self, codes: Int[Array, "n t"], label: Array | None = None,
                 deterministic: bool = True) -> Float[Array, "n t k"]:
        x = self._tokens(codes[:, :-1], jnp.arange(codes.shape[1] - 1))
        return self.body(jnp.concatenate([self._start(label, codes.shape[0])[:, None], x], 1),
                         deterministic=deterministic)

    def step(self, code: Int[Array, " n"], label: Array | None, cache: Cache) -> tuple[Float[Array, "n k"], Cache]:
        """Outputs for the next code from the `code` before it, which the first step ignores, and the next cache."""
        x = self._tokens(code, cache.position - 1)
        x = jnp.where(cache.position == 0, self._start(label, code.shape[0]), x)
        logits, cache = self.body(x[:, None], cache)
        return logits[:, 0], cache

    def _tokens(self, codes, position):
        """Embeddings of codes at positions that broadcast with them; each codebook has its own."""
        books = jnp.asarray(codebooks_of(self.body.shape, self.codebook_axis))
        book = jnp.broadcast_to(books[position], codes.shape)
        if self.inputs == "codes":
            return self.embed(codes + self.num_codes * book)
        value = 2.0 * codes[..., None] / max(1, self.num_codes - 1) - 1.0
        return value * self.slope(book) + self.offset(book)

    def _start(self, label, n):
        return self.first(jnp.zeros(n, jnp.int32) if label is None else label)


def transformer(
    shape: tuple[int, ...],
    num_codes: int,
    num_classes: int = 0,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    mlp_ratio: int | float = 4,
    attention: str = "softmax",
    factored: bool = True,
    dropout: float = 0.0,
    label_dropout: float = 0.0,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    output: str = "softmax",
    components: int = 10,
    inputs: str = "codes",
    prefix: int = 0,
    style: str = "gpt",
    codebook_axis: int | None = None,
) -> Prior:
    """Prior on integer codes by a causal transformer: one categorical for each code given those before it.

        log p(z | y) = sum_t log softmax(net(y, z_1 .. z_{t-1}))[z_t]

    Codes are flattened in raster order; of maps `[h w q]`, the q codes of a vector follow one another. The class is the
    token before the first. `sample` is one compiled loop in which each code costs one token: keys and values of those
    before it (softmax), or their sums (linear), are kept.

    Args:
      shape: of one code map: `(t,)`, `(h, w)`, or `(h, w, q)` for residual and product codes.
      num_codes: size of the codebook; codes are integers in `[0, num_codes)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`. Label `num_classes` is the
        null class.
      width: of tokens and layers.
      layers: number of blocks.
      heads: of each attention; `width` must be a multiple.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      attention: 'softmax' or 'linear'.
      factored: position embeddings as sums over the axes, or one for each position.
      dropout: rate, active where `log_prob` is given a key.
      label_dropout: share of labels replaced by the null class where `log_prob` is given a key; what guidance needs.
      axis_name: mapped axis over which the batch is spread, for the noise of both dropouts.
      dtype: computation of the network; logits are float32.
      output: 'softmax', or for ordered values, such as grey levels, 'logistic_mixture'; see `outputs`.
      components: of the mixture.
      inputs: 'codes' to embed each code, 'values' for embeddings that are linear in the value.
      prefix: rows at the front that are always given, such as the codes of a semantic map: `log_prob` is that of the
        rows after them, log p(z_after | z_before), and `sample` needs them as `given`.
      style: of the network, 'gpt' or 'llama'; see `jaxae.nn.transformer.Transformer`.
      codebook_axis: axis of the map along which codebooks differ; None takes the last of three, and else one codebook.

    Returns:
      A `Prior`. `log_prob(params, latents, label=None, key=None)` gives float32 `[n]`, nats per map (NaN where a code
      or label is out of range). `sample(params, key, n, label=None, temperature=1.0, guidance=1.0, top_k=None,
      cache=True, given=None)` gives int32 `[n, *shape]`: `guidance` w takes logits `null + w (conditional - null)`, 1
      being the model itself; then the `top_k` likeliest codes are kept (static; None keeps all), and logits are divided
      by `temperature` (0 takes the likeliest). `cache=False` computes everything anew for each code. Samples begin
      with the rows `given [n r ...]`. `steps` is what it samples by, `logits` the same all at once (see `Prior`).

    Raises:
      ValueError: for impossible shapes or shares, codes that are not integers of this shape, a missing label of a
        class-conditional prior, guidance without classes, unknown names, or `top_k` below 1.

    Reference: Vaswani et al., 2017, arXiv 1706.03762; linear attention: Katharopoulos et al., 2020, arXiv 2006.16236;
    guidance: Ho and Salimans, 'Classifier-free diffusion guidance', 2022, arXiv 2207.12598.

    >>> prior = transformer((4, 4), num_codes=8, width=16, layers=1, heads=2)
    >>> codes = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), codes)
    >>> prior.log_prob(params, codes).shape, prior.sample(params, jax.random.key(1), 2).shape
    ((3,), (2, 4, 4))
    """
    shape = check_shape("transformer", shape, (1, 2, 3), num_codes, num_classes, label_dropout, prefix)
    codebooks_of(shape, codebook_axis)  # refuses an axis that is not there
    length, head = math.prod(shape), output_of(output, num_codes, components)
    body = Transformer(head.size, shape, width, layers, heads, mlp_ratio, True, attention, factored, dropout, axis_name,
                       dtype, style=style)
    net = CausalTransformer(num_codes, num_classes, body, inputs, codebook_axis)

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape)[:1].reshape(1, length)
        return net.init(key, codes, None if label is None else label[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, length)
        label, rngs = training_noise(label, key, num_classes, label_dropout, axis_name)
        out = net.apply({"params": params}, codes, label, key is None, rngs=rngs)
        return head.log_prob(out, codes)[:, prefix * (length // shape[0]):].sum(-1)

    def logits(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None
               ) -> Float[Array, "n ..."]:
        label = check_label(label, latents.shape[0], num_classes)
        out = net.apply({"params": params}, check_codes(latents, shape).reshape(-1, length), label)
        return head.logits(out).reshape(-1, *shape, num_codes)

    def steps(params: PyTree, n: int, label: Int[Array, " n"] | None = None) -> tuple[Cache, Callable]:
        label = check_label(label, n, num_classes)

        def step(code, cache):
            out, cache = net.apply({"params": params}, code, label, cache, method="step")
            return head.logits(out), cache

        return body.start(n), step

    @partial(jax.jit, static_argnames=("n", "guided", "top_k", "cache"))
    def draw(params, key, n, label, temperature, guidance, given, rows, guided, top_k, cache):
        label = with_null(label, num_classes, guided)
        copies = 1 + guided
        empty, advance = steps(params, copies * n, label)
        given, kept = given.reshape(n, length), rows * (length // shape[0])

        def pick(logits, t):
            code = choose(jax.random.fold_in(key, t), guide(logits, guidance, guided), temperature, top_k)
            return jnp.where(t < kept, given[:, t], code)

        def step(carry, t):
            code, state = carry
            logits, state = advance(jnp.tile(code, copies), state)
            code = pick(logits, t)
            return (code, state), code

        def anew(codes, t):
            out = net.apply({"params": params}, jnp.tile(codes, (copies, 1)), label)[:, t]
            return codes.at[:, t].set(pick(head.logits(out), t)), None

        if cache:
            codes = lax.scan(step, (jnp.zeros(n, jnp.int32), empty), jnp.arange(length))[1].T
        else:
            codes = lax.scan(anew, jnp.zeros((n, length), jnp.int32), jnp.arange(length))[0]
        return codes.reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               top_k: int | None = None, cache: bool = True,
               given: Int[Array, "n r ..."] | None = None) -> Int[Array, "n ..."]:
        label, guided = sampling_options(label, n, num_classes, guidance, top_k)
        return draw(params, key, n, label, jnp.float32(temperature), jnp.float32(guidance),
                    *beginning(given, n, shape, prefix), guided, top_k, cache)

    return Prior(init, log_prob, sample, steps=steps, logits=logits)
