"""Separating the mean of two images or sounds by a trained autoencoder with codes and a causal prior on them.

    p(a, b | m) proportional to p1(a) p2(b) p(m | a, b)

The prior gives p1 and p2: of a class each, of any of a set of classes, or of anything at all. The likelihood of the
mixture's codes is counted on random pairs of training examples.

Reference: Postolache, Mariani, Mancusi, Santilli, Cosmo, Rodola, 'Latent autoregressive source separation', AAAI 2023,
arXiv 2301.08562.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae.inference.addend_tokens import Likelihood, PairCounts, count_addend_pairs, count_addend_tokens
from jaxae.inference.source_separation import Source, refine_sources, select_closest, separate_beam, separate_sample
from jaxae.priors import Prior
from jaxae.priors.classes import any_class
from jaxae.systems.base import Latent, System, Variables, by_chunks
from jaxae.systems.latent import priors_by_name as named


class Separator(NamedTuple):
    """What a separation needs. Codes `[n t]` are in raster order."""

    encode: Callable[[Array], Array]  # x [n ...] -> codes [n t]
    decode: Callable[[Array], Array]  # codes [n t], or vectors in their place -> x
    embed: Callable[[Array], Array] | None  # codes [n t] -> vectors; None where the codes have no codebook of their own
    num_codes: int
    sources: tuple[Source, Source]


class Separated(NamedTuple):
    """Estimates of two sources."""

    sources: Float[Array, "n 2 ..."]  # decoded, in the order of the priors
    codes: Int[Array, "n 2 t"]
    score: Float[Array, " n"]  # nats; see `jaxae.inference.source_separation.Separation`


def separator(system: System, variables: Variables, prior: Prior, params: PyTree,
              classes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())) -> Separator:
    """An autoencoder and two sources under one prior on its codes.

    Args:
      system: with `encode`, `decode` and a latent of one code a position.
      variables: its trained variables.
      prior: with `steps`, such as a transformer.
      params: its parameters.
      classes: labels that each source may have, equally likely; () for a prior without classes.

    Raises:
      ValueError: for latents that are not codes, of several codes a position, or a prior that does not go step by step.
    """
    latent = system.latent
    if latent is None or not latent.codes or len(latent.shape) > 2 or system.inputs != ("x",):
        raise ValueError("separation needs data with one code of a codebook at each position: train configs/vq.py or "
                         "configs/audio.py")
    if prior.steps is None:
        raise ValueError("separation needs a prior that goes code by code with a cache: train "
                         "configs/prior.py:transformer or configs/prior.py:linear")

    def encode(x):
        return system.encode(variables, x).reshape(x.shape[0], -1)

    def decode(codes):
        vectors = jnp.issubdtype(codes.dtype, jnp.floating)
        return system.decode(variables, codes if vectors else codes.reshape(-1, *latent.shape))

    def embed(codes):
        return system.codebook(variables)[codes].reshape(-1, *latent.shape, system.codebook(variables).shape[1])

    def source(labels):
        return partial(any_class, prior.steps, params, classes=labels) if labels else partial(prior.steps, params)

    return Separator(encode, decode, embed if system.codebook else None, latent.codes,
                     tuple(source(labels) for labels in classes))


def prior_of(model, latent: Latent, dtype: str = "float32") -> Prior:
    """The prior that a run of `latent.prior` with this `config.model` trained on such latents."""
    kind = named.kind_of(model, latent.shape, bool(latent.codes))
    return kind.build(named.Case(model, latent.shape, model.classes if model.conditional else 0, None,
                                 jnp.dtype(dtype)))


def count_mixtures(encode: Callable[[Array], Array], x: Float[Array, "n ..."], num_codes: int, key: Array,
                   epochs: int = 50, batch_size: int = 100) -> Int[Array, "k k m"]:
    """Counts of `count_addend_tokens` over random pairs of examples and their mean, in both orders.

    Args:
      encode: x `[n ...]` -> codes `[n t]`.
      x: training examples.
      num_codes: size of the codebook.
      key: of the pairs.
      epochs: so often each example is the first of a pair.
      batch_size: pairs encoded at a time.
    """
    codes, n = by_chunks(encode, x), x.shape[0]
    batch_size = min(batch_size, n)

    def count(counts, pair):
        (i, j), mixed = pair, encode((x[pair[0]] + x[pair[1]]) / 2)
        # The mean does not know which came first.
        first, second = jnp.concatenate([codes[i], codes[j]]), jnp.concatenate([codes[j], codes[i]])
        return count_addend_tokens(first, second, jnp.concatenate([mixed, mixed]), num_codes, counts), None

    def epoch(counts, key):
        orders = jnp.stack([jax.random.permutation(k, n) for k in jax.random.split(key)])
        pairs = orders[:, :n - n % batch_size].reshape(2, -1, batch_size).swapaxes(0, 1)
        return lax.scan(count, counts, pairs)[0], None

    start = jnp.zeros((num_codes,) * 3, jnp.int32)
    return lax.scan(epoch, start, jax.random.split(key, epochs))[0]


def count_mixture_pairs(encode: Callable[[Array], Array], x: Float[Array, "n ..."], num_codes: int,
                        rng: np.random.Generator, epochs: int = 50, batch_size: int = 100) -> PairCounts:
    """`count_mixtures` for large codebooks: lists of the triples that occurred, collected on the host.

    Args:
      encode: x `[n ...]` -> codes `[n t]`.
      x: training examples.
      num_codes: size of the codebook.
      rng: of the pairs.
      epochs: so often each example is the first of a pair.
      batch_size: pairs encoded at a time.
    """
    codes, n = np.asarray(by_chunks(encode, x)), len(x)
    batch_size = min(batch_size, n)
    mix, found = jax.jit(lambda x, i, j: encode((x[i] + x[j]) / 2)), None
    for _ in range(epochs):
        i, j = rng.permutation(n), rng.permutation(n)
        rows = [slice(start, start + batch_size) for start in range(0, n - n % batch_size, batch_size)]
        mixed = np.concatenate([np.asarray(mix(x, i[part], j[part])) for part in rows])
        first, second = codes[i[:len(mixed)]], codes[j[:len(mixed)]]
        found = count_addend_pairs(np.concatenate([first, second]), np.concatenate([second, first]),
                                   np.concatenate([mixed, mixed]), num_codes, found)
    return found


def separate(model: Separator, likelihood: Likelihood, mixtures: Float[Array, "n ..."], key: Array, *, beams: int = 20,
             samples: int = 0, temperature: float = 1.0, top_k: int | None = None, chunk: int = 10) -> Separated:
    """Both sources of every mixture: by beams, or the draw whose decoded mean is the nearest.

    Args:
      model: a `Separator`.
      likelihood: of `token_log_likelihood`.
      mixtures: means of two sources.
      key: of the draws.
      beams: of the search, where `samples` is 0.
      samples: draws of each mixture, one of which `select_closest` takes; 0 for the search.
      temperature: of the priors.
      top_k: pairs among which a draw chooses; None for all.
      chunk: mixtures worked on at a time.

    Returns:
      `Separated`.
    """
    def one(inputs):
        x, tokens, key = inputs
        if samples:
            found = separate_sample(model.sources, likelihood, tokens, key, samples, temperature, top_k)
            best = select_closest(model.decode, found.first, found.second, x) if samples > 1 else 0
        else:
            found, best = separate_beam(model.sources, likelihood, tokens, beams, temperature), 0
        return jnp.stack([found.first[best], found.second[best]]), found.score[best]

    n = mixtures.shape[0]
    inputs = mixtures, by_chunks(model.encode, mixtures), jax.random.split(key, n)
    codes, score = lax.map(one, inputs, batch_size=min(chunk, n))
    return Separated(_decoded(model, codes), codes, score)


def refine(model: Separator, found: Separated, mixtures: Float[Array, "n ..."], steps: int = 2000,
           rate: float = 1e-3) -> Float[Array, "n 2 ..."]:
    """Estimates after `refine_sources` of the codes' vectors.

    Raises:
      ValueError: for an autoencoder without a codebook.
    """
    if model.embed is None:
        raise ValueError("refinement needs an autoencoder with one codebook of vectors, such as configs/vq.py")
    first, second = (model.embed(found.codes[:, i]) for i in range(2))
    refined = refine_sources(model.decode, first, second, mixtures, steps, rate)
    return jnp.stack([model.decode(refined.first), model.decode(refined.second)], 1)


def _decoded(model, codes):
    """[n 2 t] -> [n 2 ...]"""
    x = by_chunks(model.decode, codes.reshape(-1, codes.shape[-1]))
    return x.reshape(-1, 2, *x.shape[1:])


__all__ = ["Separated", "Separator", "count_mixture_pairs", "count_mixtures", "prior_of", "refine", "separate",
           "separator"]
