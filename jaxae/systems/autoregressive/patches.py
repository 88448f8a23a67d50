"""An autoregressive model of the patches of images: the priors on rows of real tokens, fitted to pixels themselves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from jaxae.systems import figures as draw
from jaxae.systems.base import System, Variables
from jaxae.systems.latent import prior
from jaxae.systems.latent import priors_by_name as named


def defaults() -> ConfigDict:
    """Keys of `config.model`: `patch`, the side of a patch in pixels, and those of `priors_by_name.defaults` for maps
    of vectors; `conditional` wants the number of `classes`.
    """
    return ConfigDict(named.defaults() | dict(prior="masked_continuous", patch=4))


def to_patches(x: Float[Array, "n h w c"], side: int) -> Float[Array, "n t d"]:
    """Images as rows of h w / side^2 patches in raster order, each of side * side * c pixels in raster order.

    Raises:
      ValueError: for images that patches do not tile.
    """
    n, h, w, c = x.shape
    if side < 1 or h % side or w % side:
        raise ValueError(f"patches of {side} x {side} do not tile images of {h} x {w}: change model.patch")
    return x.reshape(n, h // side, side, w // side, side, c).swapaxes(2, 3).reshape(n, -1, side * side * c)


def from_patches(rows: Float[Array, "n *t d"], shape: tuple[int, int, int], side: int) -> Float[Array, "n h w c"]:
    """Images of that shape (h, w, c) from their rows or maps of patches."""
    h, w, c = shape
    tiles = rows.reshape(-1, h // side, w // side, side, side, c)
    return tiles.swapaxes(2, 3).reshape(-1, h, w, c)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """A prior on maps of patches, as `latent.prior` fits it to latents: patches instead of codes, no autoencoder.

    Samples are images, clipped to [0, 1] in the figure only, of random classes where none are given.

    Raises:
      ValueError: for x that are not images, patches that do not tile them, classes without their number, or a prior
        that does not fit.
    """
    shape, side = example["x"].shape[1:], config.model.patch
    if len(shape) != 3 or not jnp.issubdtype(example["x"].dtype, jnp.floating):
        raise ValueError(f"{config.system} models images [n h w c], not {example['x'].dtype} {shape}")
    if config.model.conditional and config.model.classes < 1:
        raise ValueError("model.conditional needs the number of classes: set model.classes")

    def cut(batch):
        rows = to_patches(batch["x"], side)  # [n h w d]: a prior may know that they are a map
        return batch | {"x": rows.reshape(-1, shape[0] // side, shape[1] // side, rows.shape[-1])}

    inner = prior.build(config, jax.eval_shape(cut, example), axis_name)

    def sample(now: Variables, key, n: int, label=None):
        if config.model.conditional and label is None:
            label_key, key = jax.random.split(key)
            label = jax.random.randint(label_key, (n,), 0, config.model.classes)
        return from_patches(inner.sample(now, key, n, label), shape, side)

    def figures(state, batch, key):
        drawn = inner.figures(state, cut(batch), key)["samples"]
        return draw.samples(from_patches(drawn, shape, side))

    def prepared(state, data, key):
        return inner.prepare(state, cut(data), key)

    return inner._replace(init=lambda key, batch: inner.init(key, cut(batch)),
                          step=lambda state, batch, key: inner.step(state, cut(batch), key),
                          evaluate=lambda state, batch, key: inner.evaluate(state, cut(batch), key),
                          prepare=prepared if inner.prepare else None, sample=sample, figures=figures, latent=None)


__all__ = ["build", "defaults"]
