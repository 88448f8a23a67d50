"""An autoregressive model of the pixels of images and videos: the priors on integer maps, fitted to grey levels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.data.transforms import to_levels
from jaxae.distributions import bits_per_dim
from jaxae.systems.base import System, Variables, means, variables
from jaxae.systems.latent import prior
from jaxae.systems.latent import priors_by_name as named


def defaults() -> ConfigDict:
    """Keys of `config.model`: `levels` of each channel, 0 for those of `config.data.levels` or else 256, and those of
    `priors_by_name.defaults` for codes ('auto' is the PixelCNN); `conditional` wants the number of `classes`.
    """
    return ConfigDict(named.defaults() | dict(levels=0))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """-log p(x) in nats per image or video, of pixels in raster order, each given those before it.

    Images `x` [n h w c] in [0, 1] are read as levels round(x (G - 1)) and drawn as multiples of 1 / (G - 1).
    `bits_per_dim` is the loss over log(2) h w c where the model has a likelihood or a bound on it. Of several channels,
    the transformers take those of a pixel one after another, the axial one the first of all pixels, then the second.
    Videos `x` [n t h w c] are modelled frame after frame by the axial one. With `model.given` the first `model.prefix`
    frames (of images, rows) are given: loss and bits are of those after them alone, and `sample` needs them.

    Raises:
      ValueError: for x that are neither images nor videos, fewer than two levels, classes without their number, or a
        prior that does not fit.
    """
    shape, levels = example["x"].shape[1:], config.model.levels or config.data.levels or 256
    if len(shape) not in (3, 4) or not jnp.issubdtype(example["x"].dtype, jnp.floating):
        raise ValueError(f"{config.system} models images [n h w c] in [0, 1], or videos [n t h w c], not "
                         f"{example['x'].dtype} {shape}")
    if levels < 2:
        raise ValueError(f"model.levels={levels}: pixels need two levels or more")
    if config.model.conditional and config.model.classes < 1:
        raise ValueError("model.conditional needs the number of classes: set model.classes")
    inner_config = config.copy_and_resolve_references()
    with inner_config.unlocked():
        inner_config.model.codes = levels
    kept = shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape  # of the codes: grey images are maps
    prefix = config.model.prefix if config.model.given else 0
    dims = math.prod(shape[1:]) * (shape[0] - prefix)

    def codes_of(x):
        return to_levels(x, levels).reshape(*x.shape[:2], *kept[1:])

    def as_codes(batch):
        return batch | {"x": codes_of(batch["x"])}

    def as_images(codes):
        return codes.reshape(-1, *shape).astype(jnp.float32) / (levels - 1)

    def named_bits(metrics):
        metrics = {name: value for name, value in metrics.items() if name != "bits_per_code"}
        nats = metrics.get("nll", metrics.get("nll_bound"))
        return metrics if nats is None else metrics | {"bits_per_dim": bits_per_dim(nats, dims)}

    kind = named.kind_of(config.model, kept, True)
    inner = prior.build(inner_config, jax.eval_shape(as_codes, example), axis_name)

    def step(state, batch, key):
        state, metrics = inner.step(state, as_codes(batch), key)
        return state, named_bits(metrics)

    def sample(now: Variables, key, n: int, label=None, given=None):
        return as_images(inner.sample(now, key, n, label, None if given is None else codes_of(given)))

    def of_videos(state, batch, key):
        """Eight videos, drawn from the first frames of others where these are given; and four, each in a block of its
        own, with two ways in which its first frames go on."""
        now, begun, x = variables(state), prefix or 1, jnp.resize(batch["x"], (8, *shape))
        label = jnp.resize(batch["label"], 8) if config.model.conditional else None
        keys = jax.random.split(key)
        drawn = sample(now, keys[0], 8, label, x[:, :prefix])
        x, label = (None if a is None else jnp.repeat(a[:4], 2, 0) for a in (x, label))
        ways = sample(now, keys[1], 8, label, x[:, :begun]).reshape(4, 2, *shape)
        return {"samples": drawn, "completions": jnp.concatenate([x[::2, None], ways], 1)}

    def figures(state, batch, key):
        if len(shape) == 4:
            return of_videos(state, batch, key)
        codes, drawn = as_codes(batch), inner.figures(state, as_codes(batch), key)["samples"]
        figures = {"samples": as_images(drawn)}
        if kind.begins:  # images, their upper half, and two ways in which it goes on
            x, half = codes["x"][:8], shape[0] // 2
            label = codes["label"][:8] if config.model.conditional else None
            ways = [inner.sample(variables(state), jax.random.fold_in(key, i), len(x), label, x[:, :half])
                    for i in range(2)]
            upper = x.at[:, half:].set(0)
            figures["completions"] = jnp.stack([as_images(row) for row in (x, upper, *ways)])
        return figures

    return inner._replace(init=lambda key, batch: inner.init(key, as_codes(batch)), step=step,
                          evaluate=lambda state, batch, key: inner.evaluate(state, as_codes(batch), key),
                          summary=lambda sums: named_bits(means(sums)), sample=sample, figures=figures, latent=None)


__all__ = ["build", "defaults"]
