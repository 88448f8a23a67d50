"""Masked prior on discrete codes (MaskGIT): a bidirectional transformer that fills in masked codes, many at a time."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.transformer import Transformer
from jaxae.priors.base import Prior
from jaxae.priors.classes import check_label, guide, sampling_options, training_noise, with_null
from jaxae.priors.codes import check_codes, check_shape, choose, code_log_prob, codebooks_of

SCHEDULES = ("cosine", "uniform")


class BidirectionalTransformer(nn.Module):
    """Logits at every position given all tokens and the class: `[n t]` integers to `[n t body.out]`.

    The class is one embedding, added to every token.

    Attributes:
      vocabulary: number of tokens that are read.
      num_classes: 0, or number of classes; label `num_classes` is the null class.
      body: not causal; its `shape` is that of a code map.
      codebook_axis: axis of the map along which codebooks, and so embeddings, differ; see `codebooks_of`.
    """

    vocabulary: int
    num_classes: int
    body: Transformer
    codebook_axis: int | None = None

    @nn.compact
    def __call__(self, tokens: Int[Array, "n t"], label: Array | None = None,
                 deterministic: bool = True) -> Float[Array, "n t k"]:
        books, width = codebooks_of(self.body.shape, self.codebook_axis), self.body.width
        x = nn.Embed((1 + int(books.max())) * self.vocabulary, width, name="embed")(tokens + self.vocabulary * books)
        if self.num_classes:
            x = x + nn.Embed(self.num_classes + 1, width, name="label")(label)[:, None]
        return self.body(x, deterministic=deterministic)


def masked(
    shape: tuple[int, ...],
    num_codes: int,
    num_classes: int = 0,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    mlp_ratio: int | float = 4,
    schedule: str = "cosine",
    factored: bool = True,
    dropout: float = 0.0,
    label_dropout: float = 0.0,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    codebook_axis: int | None = None,
) -> Prior:
    """Prior on integer codes that predicts masked codes from the others; sampling takes a few parallel passes.

        loss = N / |M| sum_{i in M} -log softmax(net(z outside M, y))_i[z_i],   M a random set of |M| of N positions

    in nats per example: the mean cross-entropy of the masked codes, times N. With schedule='cosine' |M| is
    `ceil(N cos(pi r / 2))` for uniform r, as in the paper. With 'uniform' |M| is uniform in 1 .. N, and the loss is an
    unbiased estimate of `E_order[-sum_t log p(z_order(t) | those before it in the order, y)]`: an upper bound on -log
    p(z | y) of the sampler that fills in one code at a time in random order. The parameters are the same, so a prior
    trained with 'cosine' is measured by the loss of one with 'uniform' and no dropout.

    Args:
      shape: of one code map: `(t,)`, `(h, w)`, or `(h, w, q)` for residual and product codes.
      num_codes: size of the codebook; codes are integers in `[0, num_codes)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`. Label `num_classes` is the
        null class.
      width: of tokens and layers.
      layers: number of blocks.
      heads: of each attention; `width` must be a multiple.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      schedule: 'cosine' or 'uniform': how many codes the loss masks.
      factored: position embeddings as sums over the axes, or one for each position.
      dropout: rate, active in `loss`.
      label_dropout: share of labels that `loss` replaces by the null class; what guidance needs.
      axis_name: mapped axis over which the batch is spread, for masks and dropouts.
      dtype: computation of the network; logits are float32.
      codebook_axis: axis of the map along which codebooks differ; None takes the last of three, and else one codebook.

    Returns:
      A `Prior` without `log_prob`. `loss(params, latents, label, key)` gives float32 `[n]`, as above (NaN where a
      code or a label is out of range). `sample(params, key, n, label=None, temperature=1.0, guidance=1.0,
      choice_temperature=4.5, iterations=None)` gives int32 `[n, *shape]`. In iteration t of T (None: the less of 12 and
      N) every masked code is drawn (`temperature` and `guidance` as in `transformer`), and all but `floor(N cos(pi t /
      2T))` are kept, those of highest `log p + choice_temperature (1 - t/T) Gumbel`, and at least one.
      `choice_temperature=inf` keeps codes in random order; with `iterations=N` that is exact sampling from the mixture
      over all orders.

    Raises:
      ValueError: for impossible shapes or shares, codes that are not integers of this shape, a missing label of a
        class-conditional prior, guidance without classes, or iterations outside 1 .. N.

    Reference: Chang, Zhang, Jiang, Liu, Freeman, 'MaskGIT: masked generative image transformer', 2022,
    arXiv 2202.04200; the bound: Uria, Murray, Larochelle, 'A deep and tractable density estimator', 2014,
    arXiv 1310.1757, and Hoogeboom et al., 'Autoregressive diffusion models', 2021, arXiv 2110.02037.

    >>> prior = masked((4, 4), num_codes=8, width=16, layers=1, heads=2)
    >>> codes = jnp.zeros((3, 4, 4), jnp.int32)
    >>> params = prior.init(jax.random.key(0), codes)
    >>> prior.loss(params, codes, None, jax.random.key(1)).shape
    (3,)
    >>> prior.sample(params, jax.random.key(2), 2, iterations=4).shape
    (2, 4, 4)
    """
    shape = check_shape("masked", shape, (1, 2, 3), num_codes, num_classes, label_dropout)
    codebooks_of(shape, codebook_axis)  # refuses an axis that is not there
    if schedule not in SCHEDULES:
        raise ValueError(f"masked: schedule={schedule!r} must be one of {', '.join(SCHEDULES)}.")
    length = math.prod(shape)
    body = Transformer(num_codes, shape, width, layers, heads, mlp_ratio, causal=False, factored=factored,
                       dropout=dropout, axis_name=axis_name, dtype=dtype)
    net = BidirectionalTransformer(num_codes + 1, num_classes, body, codebook_axis)  # the last token: masked

    def init(key: Array, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape)[:1].reshape(1, length)
        return net.init(key, codes, None if label is None else label[:1])["params"]

    def loss(params: PyTree, latents: Int[Array, "n ..."], label: Int[Array, " n"] | None,
             key: Array) -> Float[Array, " n"]:
        label = check_label(label, latents.shape[0], num_classes)
        codes = check_codes(latents, shape).reshape(-1, length)
        keys = collectives.split_keys(key, ("share", "order", "network"))
        label, rngs = training_noise(label, keys["network"], num_classes, label_dropout, axis_name)
        share = collectives.draw(jax.random.uniform, keys["share"], codes.shape[:1], axis_name)[:, None]
        share = jnp.cos(jnp.pi / 2 * share) if schedule == "cosine" else 1 - share  # in (0, 1]
        count = jnp.clip(jnp.ceil(length * share), 1, length)
        hidden = _rank(collectives.draw(jax.random.uniform, keys["order"], codes.shape, axis_name)) < count
        logits = net.apply({"params": params}, jnp.where(hidden, num_codes, codes), label, False, rngs=rngs)
        log_p = code_log_prob(logits, codes)
        return -length * jnp.where(hidden | jnp.isnan(log_p), log_p, 0).sum(-1) / count[:, 0]

    @partial(jax.jit, static_argnames=("n", "guided", "iterations"))
    def draw(params, key, n, label, temperature, guidance, choice_temperature, guided, iterations):
        label = with_null(label, num_classes, guided)
        random_order = jnp.isinf(choice_temperature)

        def step(codes, inputs):
            t, left = inputs
            key_code, key_order = jax.random.split(jax.random.fold_in(key, t))
            logits = net.apply({"params": params}, jnp.tile(codes, (1 + guided, 1)), label)
            logits = guide(logits, guidance, guided)
            drawn = choose(key_code, logits, temperature)
            noise = jax.random.gumbel(key_order, codes.shape)
            annealed = jnp.where(random_order, 0, choice_temperature * (1 - (t + 1) / iterations)) * noise
            score = jnp.where(random_order, noise, code_log_prob(logits, drawn) + annealed)
            hidden = codes == num_codes
            keep_hidden = _rank(jnp.where(hidden, score, jnp.inf)) < left
            return jnp.where(hidden & ~keep_hidden, drawn, codes), None

        codes = jnp.full((n, length), num_codes, jnp.int32)
        inputs = jnp.arange(iterations), jnp.asarray(_still_hidden(length, iterations))
        return lax.scan(step, codes, inputs)[0].reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               temperature: float | Float[Array, ""] = 1.0, guidance: float | Float[Array, ""] = 1.0,
               choice_temperature: float | Float[Array, ""] = 4.5,
               iterations: int | None = None) -> Int[Array, "n ..."]:
        iterations = min(12, length) if iterations is None else iterations
        if not 1 <= iterations <= length:
            raise ValueError(f"iterations={iterations} must be in 1 .. {length}: each one draws a code or more.")
        label, guided = sampling_options(label, n, num_classes, guidance)
        return draw(params, key, n, label, jnp.float32(temperature), jnp.float32(guidance),
                    jnp.float32(choice_temperature), guided, iterations)

    return Prior(init, None, sample, None, loss)


def _rank(x):
    """Rank of each entry in its row, 0 for the least."""
    return jnp.argsort(jnp.argsort(x, -1), -1)


def _still_hidden(length: int, iterations: int) -> np.ndarray:
    """How many codes are hidden after each iteration: the cosine's, at least one fewer each time, none at the end."""
    left, counts = length, []
    for t in range(1, iterations):
        left = max(min(left - 1, math.floor(length * math.cos(math.pi * t / (2 * iterations)))), iterations - t)
        counts.append(left)
    return np.array([*counts, 0])
