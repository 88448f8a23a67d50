"""An autoregressive model of the pixels of images: the priors on integer maps, fitted to grey levels themselves."""

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
    """-log p(x) in nats per image, of pixels in raster order, each given those before it.

    Images `x` [n h w c] in [0, 1] are read as levels round(x (G - 1)) and drawn as multiples of 1 / (G - 1).
    `bits_per_dim` is the loss over log(2) h w c where the model has a likelihood or a bound on it. Of several channels,
    the transformers take those of a pixel one after another, the axial one the first of all pixels, then the second.

    Raises:
      ValueError: for x that are not images, fewer than two levels, classes without their number, or a prior that does
        not fit.
    """
    shape, levels = example["x"].shape[1:], config.model.levels or config.data.levels or 256
    if len(shape) != 3 or not jnp.issubdtype(example["x"].dtype, jnp.floating):
        raise ValueError(f"{config.system} models images [n h w c] in [0, 1], not {example['x'].dtype} {shape}")
    if levels < 2:
        raise ValueError(f"model.levels={levels}: pixels need two levels or more")
    if config.model.conditional and config.model.classes < 1:
        raise ValueError("model.conditional needs the number of classes: set model.classes")
    inner_config = config.copy_and_resolve_references()
    with inner_config.unlocked():
        inner_config.model.codes = levels
    dims = math.prod(shape)

    def as_codes(batch):
        codes = to_levels(batch["x"], levels)
        return batch | {"x": codes[..., 0] if shape[-1] == 1 else codes}

    def as_images(codes):
        return codes.reshape(-1, *shape).astype(jnp.float32) / (levels - 1)

    def named_bits(metrics):
        metrics = {name: value for name, value in metrics.items() if name != "bits_per_code"}
        nats = metrics.get("nll", metrics.get("nll_bound"))
        return metrics if nats is None else metrics | {"bits_per_dim": bits_per_dim(nats, dims)}

    kind = named.kind_of(config.model, (shape[:2] if shape[-1] == 1 else shape), True)
    inner = prior.build(inner_config, jax.eval_shape(as_codes, example), axis_name)

    def step(state, batch, key):
        state, metrics = inner.step(state, as_codes(batch), key)
        return state, named_bits(metrics)

    def sample(now: Variables, key, n: int, label=None):
        return as_images(inner.sample(now, key, n, label))

    def figures(state, batch, key):
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
