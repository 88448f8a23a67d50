"""Code maps larger than those a prior was trained on, each code predicted from the window around it."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Real

from jaxae.priors.base import Prior
from jaxae.priors.codes import choose


def window_corner(place: Int[Array, "*n"], size: int, window: int) -> Int[Array, "*n"]:
    """Where the window of a place begins on one axis: the place is in its middle, or nearer to a border of the map.

        corner = min(max(place - floor(window / 2), 0), size - window)

    Args:
      place: in [0, size).
      size: of the map.
      window: of the window, at most `size`.

    >>> [int(window_corner(jnp.int32(i), 7, 4)) for i in range(7)]
    [0, 0, 0, 1, 2, 3, 3]
    """
    return jnp.clip(place - window // 2, 0, size - window)


def window_logits(prior: Prior, params: PyTree, codes: Int[Array, "n H W"], window: tuple[int, int],
                  given: Int[Array, "n H W"] | None = None, label: Int[Array, " n"] | None = None
                  ) -> Float[Array, "n H W k"]:
    """The distribution of every code of a large map given those before it in the window around it.

    Their log-softmax at the codes, summed, is the log-probability of the map, nats, under `sample_windows` at
    temperature 1.

    Args:
      prior, params, window, given, label: as in `sample_windows`.
      codes: a map of any size from the window's up.

    Returns:
      float32 logits, up to a constant.

    Raises:
      ValueError: as `sample_windows`.

    Reference: Esser, Rombach, Ommer, 'Taming transformers for high-resolution image synthesis', 2021, arXiv 2012.09841.
    """
    shape = codes.shape[1:]
    _check(prior, shape, window, codes, given)
    logits = lax.map(lambda t: _logits_at(prior, params, codes, t, window, given, label),
                     jnp.arange(shape[0] * shape[1]))
    return jnp.moveaxis(logits, 0, 1).reshape(*codes.shape, -1)


def sample_windows(prior: Prior, params: PyTree, key: Array, shape: tuple[int, int], window: tuple[int, int], *,
                   n: int = 1, given: Int[Array, "n H W"] | None = None, label: Int[Array, " n"] | None = None,
                   temperature: Real[Array, ""] | float = 1.0, top_k: int | None = None) -> Int[Array, "n H W"]:
    """Samples maps of codes of any size by a prior on maps of the window's size.

        z_ij ~ p(z_ij | codes before it in raster order within window(i, j) [, given codes in window(i, j)])

    Window(i, j) has (i, j) in its middle, or nearer to a border of the map (`window_corner`). Rows above, and what
    lies to the left, are drawn already, so that the window has all that the prior conditions on. It is one compiled
    loop with a pass of the prior for each code; for a map of the window's size it draws what `prior.sample` draws with
    the same key.

    Args:
      prior: autoregressive, with `logits`: on maps of the window's shape, or, where codes are given, on latents
        `[n 2 h*w]`, of which the first row is given and the second in the same places (the prior of
        configs/prior.py:semantic).
      params: of the prior.
      key: of the draws.
      shape: height and width of the maps, H and W.
      window: height and width of those the prior was trained on, h and w.
      n: number of maps; where codes are given, there are as many as of these.
      given: codes of a map of the same size that says what is wanted, such as those of a semantic map.
      label: of a class-conditional prior.
      temperature: divides the logits; 0 takes the likeliest code.
      top_k: the draw is among so many likeliest codes; None for all.

    Returns:
      int32 codes.

    Raises:
      ValueError: for a prior without `logits`, a map smaller than the window, or given codes of another shape.

    >>> from jaxae.priors import transformer
    >>> prior = transformer((4, 4), num_codes=8, width=16, layers=1, heads=2)
    >>> params = prior.init(jax.random.key(0), jnp.zeros((1, 4, 4), jnp.int32))
    >>> sample_windows(prior, params, jax.random.key(1), (6, 9), (4, 4), n=2).shape
    (2, 6, 9)

    Reference: Esser, Rombach, Ommer, 'Taming transformers for high-resolution image synthesis', 2021, arXiv
    2012.09841; for semantic maps also Alaniz, Hummel, Akata, 2022, arXiv 2209.02536.
    """
    n = n if given is None else given.shape[0]
    _check(prior, tuple(shape), window, jax.ShapeDtypeStruct((n, *shape), jnp.int32), given)
    return _draw(prior, params, key, tuple(shape), tuple(window), n, given, label, jnp.float32(temperature), top_k)


@partial(jax.jit, static_argnames=("prior", "shape", "window", "n", "top_k"))
def _draw(prior, params, key, shape, window, n, given, label, temperature, top_k):
    before = 0 if given is None else window[0] * window[1]  # codes before the first in the prior's own order

    def step(t, codes):
        logits = _logits_at(prior, params, codes, t, window, given, label)
        code = choose(jax.random.fold_in(key, before + t), logits, temperature, top_k)
        return codes.at[:, t // shape[1], t % shape[1]].set(code)

    return lax.fori_loop(0, shape[0] * shape[1], step, jnp.zeros((n, *shape), jnp.int32))


def _logits_at(prior, params, codes, t, window, given, label):
    """`[n k]`: of place t of the maps in raster order, by the window around it; codes from t on do not matter."""
    n, height, width = codes.shape
    i, j = t // width, t % width
    top, left = window_corner(i, height, window[0]), window_corner(j, width, window[1])

    def cut(maps):
        return lax.dynamic_slice(maps, (0, top, left), (n, *window))

    latents = cut(codes) if given is None else jnp.stack([cut(given), cut(codes)], 1).reshape(n, 2, -1)
    logits = prior.logits(params, latents, label)
    logits = logits.reshape(n, -1, window[0] * window[1], logits.shape[-1])[:, -1]
    return lax.dynamic_index_in_dim(logits, (i - top) * window[1] + j - left, 1, keepdims=False)


def _check(prior, shape, window, codes, given):
    if prior.logits is None:
        raise ValueError("sliding windows need a prior that predicts each code from those before it: use the prior "
                         "'transformer' or 'autoregressive'")
    if len(shape) != 2 or len(window) != 2 or shape[0] < window[0] or shape[1] < window[1]:
        raise ValueError(f"a map of {shape} codes must be at least as large as the window {tuple(window)} that the "
                         f"prior was trained on")
    if given is not None and (given.shape != codes.shape or not jnp.issubdtype(given.dtype, jnp.integer)):
        raise ValueError(f"given codes must be integers {list(codes.shape)}, one for each place of the maps; got "
                         f"{given.dtype} {list(given.shape)}")
