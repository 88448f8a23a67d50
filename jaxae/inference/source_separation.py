"""Two sources from their mixture in the tokens of a frozen autoencoder: ancestral draws, beams, and what follows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from jaxae.inference.addend_tokens import Likelihood, pairs_of

# step(code [n], cache) -> (logits [n K] of the next code, cache); the first code is ignored. Arrays of a cache have a
# row for each sequence, scalars aside.
Step = Callable[[Array, PyTree], tuple[Array, PyTree]]
Source = Callable[[int], tuple[PyTree, Step]]  # n -> (empty cache of n sequences, step): what `Prior.steps` gives


class Separation(NamedTuple):
    """Tokens of two sources, n times."""

    first: Int[Array, "n t"]
    second: Int[Array, "n t"]
    score: Float[Array, " n"]  # nats: log p1(first) + log p2(second) + log p(mixture | both); -inf is impossible


def separate_sample(sources: tuple[Source, Source], likelihood: Likelihood, mixture: Int[Array, " t"], key: Array,
                    n: int, temperature: float | Array = 1.0, top_k: int | None = None) -> Separation:
    """Draws of two sources' tokens given their mixture's, token by token.

        (a_s, b_s) ~ p1(a_s | a_<s) p2(b_s | b_<s) p(m_s | a_s, b_s) / normaliser

    Each step sees the mixture up to its own token only: the product of these steps is normalised locally, and is not
    the posterior p(a, b | m), which would also weigh a beginning by how well it can go on.

    Args:
      sources: of each source `n -> (cache, step)`, such as `lambda n: prior.steps(params, n, label)`.
      likelihood: of `token_log_likelihood`.
      mixture: tokens in the order of the priors. `vmap` over mixtures.
      key: of the draws.
      n: number of draws.
      temperature: each prior is p^(1 / temperature), normalised.
      top_k: keep the likeliest pairs only; static, None keeps all.

    Returns:
      `Separation` of n draws. Where no pair explains a token, its codes mean nothing and the score is -inf: smooth
      the likelihood by `eps`.

    Raises:
      ValueError: for n or top_k below 1.

    Reference: Postolache, Mariani, Mancusi, Santilli, Cosmo, Rodola, 'Latent autoregressive source separation', AAAI
    2023, arXiv 2301.08562.
    """
    _check(n=n, top_k=1 if top_k is None else top_k)

    def step(carry, inputs):
        codes, caches, score = carry
        token, key = inputs
        joint, pair_at, caches = _joint(steps, codes, caches, likelihood, token, temperature)
        place = _draw(key, joint, top_k)
        score = score + jnp.take_along_axis(joint, place[:, None], 1)[:, 0]
        codes = pair_at(place)
        return (codes, caches, score), codes

    caches, steps = zip(*(source(n) for source in sources), strict=True)
    start = (jnp.zeros((2, n), jnp.int32), caches, jnp.zeros(n))
    (_, _, score), codes = lax.scan(step, start, (mixture, jax.random.split(key, mixture.shape[0])))
    return Separation(*codes.transpose(1, 2, 0), score)


def separate_beam(sources: tuple[Source, Source], likelihood: Likelihood, mixture: Int[Array, " t"], beams: int,
                  temperature: float | Array = 1.0) -> Separation:
    """The likeliest tokens of two sources given their mixture's, by a beam search over pairs.

        argmax_{a, b}  log p1(a) + log p2(b) + sum_s log p(m_s | a_s, b_s)

    Of all continuations of all beams the best stay, and the caches of both priors follow them. Exact where there are
    as many beams as possible beginnings.

    Args:
      sources: as in `separate_sample`.
      likelihood: of `token_log_likelihood`.
      mixture: tokens in the order of the priors. `vmap` over mixtures.
      beams: number of sequences that are kept; a step compares K^2 continuations of each, or those that are listed.
      temperature: each prior is p^(1 / temperature), normalised.

    Returns:
      `Separation` of all beams, the best first. A score of -inf means that no pair explained some token, or that
      there were fewer sequences than beams.

    Raises:
      ValueError: for fewer than one beam.

    Reference: Postolache et al., 2023, arXiv 2301.08562.
    """
    _check(beams=beams)

    def step(carry, inputs):
        codes, caches, score, history = carry
        t, token = inputs
        joint, pair_at, caches = _joint(steps, codes, caches, likelihood, token, temperature)
        score, place = lax.top_k((score[:, None] + joint).reshape(-1), beams)
        row, place = jnp.divmod(place, joint.shape[1])
        codes = pair_at(place)
        return (codes, _rows(caches, row), score, history[:, row].at[:, :, t].set(codes)), None

    caches, steps = zip(*(source(beams) for source in sources), strict=True)
    length = mixture.shape[0]
    # All beams are equal at first: one of them goes on.
    score = jnp.full(beams, -jnp.inf).at[0].set(0.0)
    start = jnp.zeros((2, beams), jnp.int32), caches, score, jnp.zeros((2, beams, length), jnp.int32)
    (_, _, score, history), _ = lax.scan(step, start, (jnp.arange(length), mixture))
    return Separation(*history, score)


def select_closest(decode: Callable[[Array], Array], first: Shaped[Array, "n ..."], second: Shaped[Array, "n ..."],
                   mixture: Float[Array, "..."]) -> Int[Array, ""]:
    """The draw whose decoded sources add up to the mixture best: argmin_i |m - (D(a_i) + D(b_i)) / 2|^2.

    Args:
      decode: latents `[n ...] -> x [n *shape]`.
      first: latents of the first source, of n draws.
      second: latents of the second source.
      mixture: what was observed, `[*shape]`, the mean of the two sources.

    Returns:
      Index of the draw, int32.

    Reference: Postolache et al., 2023, arXiv 2301.08562.
    """
    error = jnp.square(mixture - (decode(first) + decode(second)) / 2)
    return jnp.argmin(error.reshape(error.shape[0], -1).sum(-1)).astype(jnp.int32)


class Refined(NamedTuple):
    """Latents after the refinement."""

    first: Float[Array, "n ..."]
    second: Float[Array, "n ..."]
    error: Float[Array, "steps n"]  # mean squared error of the mixture before each step


def refine_sources(decode: Callable[[Array], Array], first: Float[Array, "n ..."], second: Float[Array, "n ..."],
                   mixture: Float[Array, "n ..."], steps: int = 2000, rate: float = 1e-3, halve_every: int = 100,
                   weight: float = 1e-3) -> Refined:
    """Moves two sources' latent vectors so that their decoded mean comes nearer to the mixture.

        min_{a, b}  mean (m - (D(a) + D(b)) / 2)^2 + weight * mean [(a - a_0)^2 + (b - b_0)^2]

    by Adam, of each example for itself; the means are over its elements.

    Args:
      decode: latent vectors `[n ...] -> x [n *shape]`, differentiable.
      first: latent vectors of the first source, such as the codes' entries in the codebook.
      second: of the second source.
      mixture: what was observed, `[n *shape]`, the mean of the two sources.
      steps: of Adam.
      rate: of the first steps.
      halve_every: steps after which the rate is halved, again and again.
      weight: of the distance to where the latents start.

    Returns:
      `Refined`.

    Raises:
      ValueError: for fewer than one step, or one between halvings.

    Reference: Postolache et al., 2023, arXiv 2301.08562.
    """
    _check(steps=steps, halve_every=halve_every)
    optimizer = optax.adam(optax.exponential_decay(rate, halve_every, 0.5, staircase=True))
    start = (first, second)

    def loss(latents):
        error = _means(jnp.square(mixture - (decode(latents[0]) + decode(latents[1])) / 2))
        moved = sum(_means(jnp.square(z - z0)) for z, z0 in zip(latents, start, strict=True))
        return jnp.sum(error + weight * moved), error  # a sum: no example feels the others

    def step(carry, _):
        latents, state = carry
        (_, error), gradient = jax.value_and_grad(loss, has_aux=True)(latents)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(latents, updates), state), error

    (latents, _), errors = lax.scan(step, (start, optimizer.init(start)), length=steps)
    return Refined(*latents, errors)


def _joint(steps, codes, caches, likelihood, token, temperature):
    """log p1 + log p2 + log p(token | pair) of all pairs `[n p]`, their codes by place `[n] -> [2 n]`, the caches."""
    found = [step(code, cache) for step, code, cache in zip(steps, codes, caches, strict=True)]
    a, b = (jax.nn.log_softmax(logits.astype(jnp.float32) / temperature) for logits, _ in found)
    pairs, log_prob = pairs_of(likelihood, token)
    caches = tuple(cache for _, cache in found)
    if pairs is None:
        joint = (a[:, :, None] + (b[:, None] + log_prob)).reshape(a.shape[0], -1)
        return joint, lambda place: jnp.stack(jnp.divmod(place, b.shape[1])), caches
    return a[:, pairs[0]] + b[:, pairs[1]] + log_prob, lambda place: pairs[:, place], caches


def _draw(key, joint, top_k):
    """One place `[n]` of each row of unnormalised log probabilities `[n p]`, or of its `top_k` largest."""
    n, p = joint.shape
    if top_k is not None and top_k < p:
        joint, place = lax.top_k(joint, top_k)
        return jnp.take_along_axis(place, jax.random.categorical(key, joint)[:, None], 1)[:, 0]
    # A block, then a place in it: of K^2 pairs 2 K random numbers are enough.
    side = math.isqrt(p - 1) + 1
    blocks = jnp.pad(joint, ((0, 0), (0, side * side - p)), constant_values=-jnp.inf).reshape(n, side, side)
    keys = jax.random.split(key)
    block = jax.random.categorical(keys[0], jax.nn.logsumexp(blocks, -1))
    inside = jax.random.categorical(keys[1], blocks[jnp.arange(n), block])
    return jnp.minimum(block * side + inside, p - 1)


def _rows(tree, rows):
    """The rows of every array of caches; scalars, such as the position, are common to all."""
    return jax.tree.map(lambda x: x[rows] if jnp.ndim(x) else x, tree)


def _means(x):
    return x.reshape(x.shape[0], -1).mean(-1)


def _check(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
