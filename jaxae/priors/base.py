"""The protocol of latent priors: a density on latents that can be fitted and sampled."""

from collections.abc import Callable
from typing import NamedTuple


class Prior(NamedTuple):
    """A distribution `p(z)`, or `p(z | label)`, as pure functions of its parameters.

    Any encoder's latents can be given any prior that fits their type: vectors `[n d]` or integer code maps
    `[n h w]`. Parameters are one pytree, so seeds train side by side under `vmap`. Labels are integers `[n]`;
    a prior without classes ignores them, a class-conditional one asks for them.

    Fields:
      init: `(key, latents, label=None) -> params`. Uses shapes and at most the scale of `latents`.
      log_prob: `(params, latents, label=None, key=None) -> [n]`, nats per example, summed over the
        latent's dimensions. `key` is for priors with noise in training (dropout); without it there is none.
      sample: `(params, key, n, label=None) -> latents [n ...]`; `n` is static.
      fit: `(params, latents, key) -> params`, closed form or EM over the whole set; None where the prior
        is trained by gradient.
      loss: `(params, latents, label, key) -> [n]`, what training minimises where it is not `-log_prob`: a bound, a
        masked cross-entropy, a denoising error; its units stand in the prior's docstring. None where it is `-log_prob`.
      steps: `(params, n, label=None) -> (cache, step)`, where the prior goes code by code in raster order:
        `step(code [n], cache) -> (logits [n K], cache)` reads the code before and gives the next one's distribution;
        what it reads first is ignored. Every array of the cache has a row for each of the n sequences, scalars aside.
      logits: `(params, latents, label=None) -> [n *shape K]`, of autoregressive priors: the distribution of each code
        given those before it in raster order, all at once, up to a constant.

    A prior whose density is not tractable has `log_prob=None`.

    >>> import jax, jax.numpy as jnp
    >>> normal = Prior(
    ...     init=lambda key, z, label=None: (z.mean(0), z.std(0)),
    ...     log_prob=lambda p, z, label=None, key=None: jax.scipy.stats.norm.logpdf(z, *p).sum(-1),
    ...     sample=lambda p, key, n, label=None: p[0] + p[1] * jax.random.normal(key, (n, p[0].size)))
    >>> params = normal.init(None, jnp.array([[0.0], [2.0]]))
    >>> normal.sample(params, jax.random.key(0), 5).shape
    (5, 1)
    """

    init: Callable
    log_prob: Callable | None
    sample: Callable
    fit: Callable | None = None
    loss: Callable | None = None
    steps: Callable | None = None
    logits: Callable | None = None
