"""Diffusion and flow-matching priors on vectors and maps, and the conditioning that guided priors share."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Real

from jaxae import collectives
from jaxae.losses import diffusion as process
from jaxae.losses import flow_matching
from jaxae.nn.denoise import DenoiseMLP, DenoiseTransformer
from jaxae.priors.base import Prior
from jaxae.priors.classes import hide, needs_guidance, rows_of

SCHEDULES = {"linear": process.linear_schedule, "cosine": process.cosine_schedule}
_LARGEST_EXACT = 64  # dimensions up to which a flow's likelihood is offered: its cost is d velocities a call


class _Net(nn.Module):
    body: nn.Module
    num_classes: int
    width: int
    pair: bool

    @nn.compact
    def __call__(self, x: Array, t: Array, rows: Array) -> Array | tuple[Array, Array]:
        condition = nn.Embed(self.num_classes + 1, self.width, name="label")(rows) if self.num_classes else None
        out = self.body(x, t, condition)
        return tuple(jnp.split(out, 2, axis=-1)) if self.pair else out


def diffusion(
    shape: tuple[int, ...],
    num_classes: int = 0,
    kind: str = "ddpm",
    width: int = 256,
    depth: int = 3,
    heads: int = 4,
    patch: int = 1,
    predicts: str = "v",
    learned_variance: bool = False,
    schedule: str = "cosine",
    times: int = 1000,
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Prior:
    """Prior on real vectors or maps by denoising, `kind='ddpm'`, or by flow matching, `kind='flow_matching'`.

    `loss` is `denoising_loss` at a random time of the schedule (squared units of what is predicted; 'v' has unit scale
    at every time, 'epsilon' is the choice of the first papers), or `flow_matching_loss` at a random time in [0, 1];
    both summed over the data dimensions. The density of a diffusion is not tractable: `log_prob` is None. That of a
    flow on vectors of up to 64 dimensions is offered, nats per vector by 50 steps of Heun's method with the exact
    divergence, d + 1 passes of the network for each call; beyond and on maps it is None.

    Latents should have about unit variance: the noise has. An average of the parameters over training samples better.

    Args:
      shape: `(d,)`, by a modulated MLP, or `(h, w, c)`, by a transformer on patches.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      width, depth: of the network.
      heads, patch: of the transformer.
      predicts: what a ddpm's network estimates: 'epsilon', 'x' or 'v'.
      learned_variance: the network also gives the variance of each step, trained by the variational bound (ddpm).
      schedule, times: 'linear' or 'cosine' noise in `times` steps (ddpm).
      label_dropout: share of examples whose label is hidden in training, for guidance.
      axis_name: mapped axis over which the batch is spread, for the noise of `loss`.
      dtype: computation of the network.

    Returns:
      A `Prior` with a `loss`. `sample(params, key, n, label=None, steps=None, guidance=1.0, temperature=1.0,
      deterministic=False)` gives `[n, *shape]`: `steps` is 100 of a ddpm, at most `times`, or 50 of Heun's method of
      a flow; guidance other than 1 moves away from the unconditional prediction and costs twice; temperature scales
      the noise that is injected (ddpm) or that the flow starts from; deterministic takes DDIM steps.

    Raises:
      ValueError: for options that do not exist, latents of another shape, or a label missing where there are classes.

    Reference: Ho, Jain, Abbeel, 2020, arXiv 2006.11239; Lipman et al., 2022, arXiv 2210.02747; guidance: Ho, Salimans,
    2022, arXiv 2207.12598; on an autoencoder's latents: Rombach et al., 2021, arXiv 2112.10752.

    >>> prior = diffusion((2,), width=16, depth=1)
    >>> params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, 2)))
    >>> prior.sample(params, jax.random.key(1), 3, steps=4).shape
    (3, 2)
    """
    shape, flow = tuple(shape), kind == "flow_matching"
    if kind not in ("ddpm", "flow_matching"):
        raise ValueError(f"kind={kind!r} must be 'ddpm' or 'flow_matching'")
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(f"diffusion needs the shape of one latent, (d,) or (h, w, c); got {shape}")
    if flow and learned_variance:
        raise ValueError("a flow has no variance to learn: set learned_variance=False")
    alpha_bar = None if flow else noise_schedule(schedule, times, predicts)
    features = shape[-1] * (1 + learned_variance)
    body = (DenoiseMLP(features, width, depth, dtype) if len(shape) == 1
            else DenoiseTransformer(features, width, depth, heads, patch, dtype))
    net = _Net(body, num_classes, width, learned_variance)

    def denoise(params, x, t, rows):
        return net.apply({"params": params}, x, 1000.0 * t if flow else t, rows)

    def check(latents: Array) -> None:
        if latents.shape[1:] != shape or not jnp.issubdtype(latents.dtype, jnp.floating):
            raise ValueError(f"expected real latents [n, {', '.join(map(str, shape))}]; "
                             f"got {latents.dtype} {latents.shape}")

    def init(key: Array, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        check(latents)
        return net.init(key, latents[:1], jnp.zeros(1), rows_of(label, latents.shape[0], num_classes)[:1])["params"]

    def loss(params: PyTree, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None, key: Array
             ) -> Float[Array, " n"]:
        check(latents)
        n, keys = latents.shape[0], collectives.split_keys(key, ("label", "time", "noise"))
        rows = hide(keys["label"], rows_of(label, n, num_classes), num_classes, label_dropout, axis_name)
        noise = collectives.draw(jax.random.normal, keys["noise"], latents.shape, axis_name)
        if flow:
            t = collectives.draw(jax.random.uniform, keys["time"], (n,), axis_name)
            return flow_matching.flow_matching_loss(lambda x, t: denoise(params, x, t, rows), latents, noise, t)
        t = collectives.draw(partial(jax.random.randint, minval=0, maxval=times), keys["time"], (n,), axis_name)
        return process.denoising_loss(lambda x, t: denoise(params, x, t, rows), latents, noise, t, alpha_bar, predicts)

    def log_prob(params: PyTree, latents: Float[Array, "n d"], label: Int[Array, " n"] | None = None,
                 key: Array | None = None) -> Float[Array, " n"]:
        check(latents)
        rows = rows_of(label, latents.shape[0], num_classes)
        return flow_matching.flow_log_prob(lambda x, t: denoise(params, x, t, rows), latents)

    @partial(jax.jit, static_argnames=("n", "steps", "is_guided", "deterministic"))
    def draw(params, key, rows, guidance, temperature, n, steps, is_guided, deterministic):
        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (n, *shape))
        call = partial(denoise, params)
        call = (guided(call, rows, jnp.full_like(rows, num_classes), guidance) if is_guided
                else lambda x, t: denoise(params, x, t, rows))
        if flow:
            return flow_matching.flow_sample(call, temperature * start, steps)
        if deterministic:
            return process.ddim_sample(call, start, alpha_bar, steps, predicts)
        return process.ddpm_sample(call, key, start, alpha_bar, steps, predicts, temperature)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None, steps: int | None = None,
               guidance: float | Float[Array, ""] = 1.0, temperature: float | Float[Array, ""] = 1.0,
               deterministic: bool = False) -> Float[Array, "n ..."]:
        steps = (50 if flow else min(100, times)) if steps is None else steps
        return draw(params, key, rows_of(label, n, num_classes), jnp.float32(guidance), jnp.float32(temperature), n,
                    steps, needs_guidance(guidance, num_classes), deterministic)

    tractable = flow and len(shape) == 1 and math.prod(shape) <= _LARGEST_EXACT
    return Prior(init, log_prob if tractable else None, sample, loss=loss)


def noise_schedule(schedule: str, times: int, predicts: str):
    """The schedule of that name, after a look at what would only fail when a network is trained.

    Raises:
      ValueError: for a name or a kind of prediction that does not exist, or fewer than 2 times.
    """
    if schedule not in SCHEDULES or predicts not in process.PREDICTIONS or times < 2:
        raise ValueError(f"schedule={schedule!r} must be one of {tuple(SCHEDULES)}, predicts={predicts!r} one of "
                         f"{process.PREDICTIONS} and times={times} at least 2")
    return SCHEDULES[schedule](times)


def guided(denoise: Callable, condition: Real[Array, "n *c"], hidden: Real[Array, "n *c"],
           weight: Real[Array, "..."] | float) -> Callable:
    """The guided denoiser `(x_t, t)` of `denoise(x_t, t, condition)`, both predictions in one pass.

    A learned variance is that of the conditional prediction.
    """
    def both(x_t, t):
        output = denoise(*(jnp.concatenate(pair) for pair in ((x_t, x_t), (t, t), (condition, hidden))))
        if isinstance(output, tuple):
            output, fraction = output
            return process.guide(*jnp.split(output, 2), weight), jnp.split(fraction, 2)[0]
        return process.guide(*jnp.split(output, 2), weight)

    return both
