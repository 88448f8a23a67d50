"""Autoregressive prior on discrete codes: a causal transformer with a start token for the class, and a cache."""

import math
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
from jaxae.priors.codes import by_place, check_codes, check_shape, choose, code_log_prob


class CausalTransformer(nn.Module):
    """Logits of each code given the codes before it and the class: `[n t]` integers to `[n t num_codes]`.

    Attributes:
      num_codes: size of the codebook.
      num_classes: 0, or number of classes; label `num_classes` is the null class.
      body: causal, of `num_codes` outputs; its `shape` is that of a code map.
    """

    num_codes: int
    num_classes: int
    body: Transformer

    def setup(self):
        places = self.body.shape[2] if len(self.body.shape) == 3 else 1
        self.embed = nn.Embed(places * self.num_codes, self.body.width)
        self.first = nn.Embed(self.num_classes + 1, self.body.width)

    def __call__(self, codes: Int[Array, "n t"], label: Array | None = None,
                 deterministic: bool = True) -> Float[Array, "n t k"]:
        x = self.embed(by_place(codes, self.body.shape, self.num_codes)[:, :-1])
        return self.body(jnp.concatenate([self._start(label, codes.shape[0])[:, None], x], 1),
                         deterministic=deterministic)

    def step(self, code: Int[Array, " n"], label: Array | None, cache: Cache) -> tuple[Float[Array, "n k"], Cache]:
        """Logits of the next code from the `code` before it, which the first step ignores, and the next cache."""
        places = self.body.shape[2] if len(self.body.shape) == 3 else 1
        x = self.embed(code + self.num_codes * ((cache.position - 1) % places))
        x = jnp.where(cache.position == 0, self._start(label, code.shape[0]), x)
        logits, cache = self.body(x[:, None], cache)
        return logits[:, 0], cache

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

    Returns:
      A `Prior`. `log_prob(params, latents, label=None, key=None)` gives float32 `[n]`, nats per map (NaN where a code
      or label is out of range). `sample(params, key, n, label=None, temperature=1.0, guidance=1.0, top_k=None,
      cache=True)` gives int32 `[n, *shape]`: `guidance` w takes logits `null + w (conditional - null)`, 1 being the
      model itself; then the `top_k` likeliest codes are kept (static; None keeps all), and logits are divided by
      `temperature` (0 takes the likeliest). `cache=False` computes everything anew for each code.

    Raises:
      ValueError: for impossible shapes or shares, codes that are not integers of this shape, a missing label of a
        class-conditional prior, guidance without classes, or `top_k` below 1.

    Reference: Vaswani et al., 2017, arXiv 1706.03762; linear attention: Katharopoulos et al., 2020, arXiv 2006.16236;
    guidance: Ho and Salimans, 'Classifier-free diffusion guidance', 2022, arXiv 2207.12598.

    >>> prior = transformer((4, 4), num_codes=8, width=16, layers=1, heads=2)
    >>> codes = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), codes)
    >>> prior.log_prob(params, codes).shape, prior.sample(params, jax.random.key(1), 2).shape
    ((3,), (2, 4, 4))
    """
    shape = check_shape("transformer", shape, (1, 2, 3), num_codes, num_classes, label_dropout)
    length = math.prod(shape)
    body = Transformer(num_codes, shape, width, layers, heads, mlp_ratio, True, attention, factored, dropout, axis_name,
                       dtype)
    net = CausalTransformer(num_codes, num_classes, body)

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape)[:1].reshape(1, length)
        return net.init(key, codes, None if label is None else label[:1])["params"]

    def log_prob(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, length)
        label, rngs = training_noise(label, key, num_classes, label_dropout, axis_name)
        logits = net.apply({"params": params}, codes, label, key is None, rngs=rngs)
        return code_log_prob(logits, codes).sum(-1)

    @partial(jax.jit, static_argnames=("n", "guided", "top_k", "cache"))
    def draw(params, key, n, label, temperature, guidance, guided, top_k, cache):
        label = with_null(label, num_classes, guided)
        variables, copies = {"params": params}, 1 + guided

        def pick(logits, t):
            return choose(jax.random.fold_in(key, t), guide(logits, guidance, guided), temperature, top_k)

        def step(carry, t):
            code, state = carry
            logits, state = net.apply(variables, jnp.tile(code, copies), label, state, method="step")
            code = pick(logits, t)
            return (code, state), code

        def anew(codes, t):
            logits = net.apply(variables, jnp.tile(codes, (copies, 1)), label)[:, t]
            return codes.at[:, t].set(pick(logits, t)), None

        if cache:
            start = jnp.zeros(n, jnp.int32), body.start(copies * n)
            codes = lax.scan(step, start, jnp.arange(length))[1].T
        else:
            codes = lax.scan(anew, jnp.zeros((n, length), jnp.int32), jnp.arange(length))[0]
        return codes.reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               top_k: int | None = None, cache: bool = True) -> Int[Array, "n ..."]:
        label, guided = sampling_options(label, n, num_classes, guidance, top_k)
        return draw(params, key, n, label, jnp.float32(temperature), jnp.float32(guidance), guided, top_k, cache)

    return Prior(init, log_prob, sample)
