"""Pure transforms of batches on the device: to floats, augmentation, binarisation, fewer grey levels.

Random ones draw for the global batch through `collectives.draw`, so that one device and many see the same.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxae import collectives
from jaxae.data.source import Batch, DataError

Transform = Callable[..., Batch]

BINARIZE = ("none", "static", "dynamic")


def to_unit(x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    """uint8 0..255 -> float32 in [0, 1]; floats -> float32; tokens (wider integers) stay as they are."""
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def flip(x: Shaped[Array, "n h w c"], key: Array, axis_name: str | None = None) -> Shaped[Array, "n h w c"]:
    """Mirrors each image left to right with probability 1/2."""
    chosen = collectives.draw(jax.random.uniform, key, (x.shape[0],), axis_name) < 0.5
    return jnp.where(chosen[:, None, None, None], x[:, :, ::-1], x)


def random_shift(x: Float[Array, "n h w c"], key: Array, axis_name: str | None = None,
                 limit: int | None = None) -> Float[Array, "n h w c"]:
    """Moves each image by whole pixels, uniform in [-limit, limit] on both axes, zeros coming in.

    Args:
      x: images `[n h w c]`.
      key: one key.
      axis_name: mapped axis or None.
      limit: largest shift in pixels; an eighth of the shorter side (at least 1) when None, which on 32 pixels
        is the field's pad by 4 and crop.

    Returns:
      Images `[n h w c]`.
    """
    n, h, w, c = x.shape
    limit = max(1, min(h, w) // 8) if limit is None else limit
    starts = collectives.draw(lambda k, s: jax.random.randint(k, s, 0, 2 * limit + 1), key, (n, 2), axis_name)
    padded = jnp.pad(x, ((0, 0), (limit, limit), (limit, limit), (0, 0)))
    return jax.vmap(lambda image, s: jax.lax.dynamic_slice(image, (s[0], s[1], 0), (h, w, c)))(padded, starts)


def random_crop(x: Float[Array, "n h w c"], key: Array, axis_name: str | None = None,
                area: tuple[float, float] = (0.5, 1.0),
                ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Float[Array, "n h w c"]:
    """Cuts a random rectangle out of each image and resizes it to the image's size, bilinear, antialiased.

    Args:
      x: images `[n h w c]` in [0, 1].
      key: one key.
      axis_name: mapped axis or None.
      area: the rectangle's share of the image, uniform between the two.
      ratio: its width over its height relative to the image's, log-uniform between the two.

    Returns:
      Images `[n h w c]` in [0, 1].
    """
    n, h, w, c = x.shape
    u = collectives.draw(jax.random.uniform, key, (n, 4), axis_name)
    share = area[0] + u[:, 0] * (area[1] - area[0])
    stretch = jnp.exp(jnp.log(ratio[0]) + u[:, 1] * (jnp.log(ratio[1]) - jnp.log(ratio[0])))
    sides = jnp.minimum(jnp.stack([jnp.sqrt(share / stretch), jnp.sqrt(share * stretch)], -1), 1.0)  # [n 2]
    corners = u[:, 2:] * (1 - sides)                                                                 # [n 2]

    def crop(image: Array, side: Array, corner: Array) -> Array:
        shift = -corner / side * jnp.array([h, w], jnp.float32)
        return jax.image.scale_and_translate(image, (h, w, c), (0, 1), 1 / side, shift, "linear")

    return jnp.clip(jax.vmap(crop)(x, sides, corners), 0, 1)   # rounding only: the weights are convex


AUGMENT: dict[str, Callable[..., Array]] = {"flip": flip, "shift": random_shift, "crop": random_crop}
WITH_MAPS = ("flip",)   # those that move a semantic map as its image: they mix no pixels and bring none in


def binarize(x: Float[Array, "n ..."], key: Array, axis_name: str | None = None) -> Float[Array, "n ..."]:
    r"""Dynamic binarisation: a fresh $b \sim \mathrm{Bernoulli}(x)$ at each call.

    Args:
      x: probabilities in [0, 1], `[n ...]`.
      key: one key.
      axis_name: mapped axis or None.

    Returns:
      0.0 and 1.0, `[n ...]`.

    Reference:
      R. Salakhutdinov, I. Murray, "On the quantitative analysis of deep belief networks", 2008.
    """
    return (collectives.draw(jax.random.uniform, key, x.shape, axis_name) < x).astype(x.dtype)


def binarize_static(x: Float[Array, "n ..."], index: Int[Array, "n"], key: Array) -> Float[Array, "n ..."]:
    r"""Static binarisation: one fixed $b_i \sim \mathrm{Bernoulli}(x_i)$ for each example i of the set.

    The draw's key is `fold_in(key, index)`, so an example looks the same in every epoch, batch and layout.
    (A threshold at 1/2 would be another data set, with thinner strokes and lower entropy.)

    Args:
      x: probabilities in [0, 1], `[n ...]`.
      index: positions of the examples in their set, `[n]`.
      key: one key for the whole set.

    Returns:
      0.0 and 1.0, `[n ...]`.

    Reference:
      H. Larochelle, I. Murray, "The neural autoregressive distribution estimator", 2011.
    """
    def one(x: Array, i: Array) -> Array:
        return (jax.random.uniform(jax.random.fold_in(key, i), x.shape) < x).astype(x.dtype)
    return jax.vmap(one)(x, index)


def to_levels(x: Float[Array, "*n"], levels: int) -> Int[Array, "*n"]:
    """The nearest of `levels` evenly spaced values in [0, 1], as an integer: round(x (levels - 1)), clipped.

    Args:
      x: in [0, 1].
      levels: 2 or more.

    Returns:
      int32 in [0, levels); divided by levels - 1, it is the value.
    """
    return jnp.clip(jnp.round(x * (levels - 1)), 0, levels - 1).astype(jnp.int32)


def make(augment: Sequence[str] = (), binarize: str = "none", static_key: Array | None = None,
         levels: int = 0) -> Transform:
    """Composes `transform(batch, key, axis_name=None) -> batch`: to floats, then augment, then binarise or quantise.

    Labels and factors, stored compactly, become int32; all else passes.

    Args:
      augment: names from `AUGMENT`, applied in order.
      binarize: 'none', 'static' or 'dynamic'.
      static_key: the set's key for 'static'; `key(0)` when None. Without augmentation the set is fixed; with
        it the noise is fixed and the image under it moves.
      levels: of grey, or of each colour, evenly spaced in [0, 1]; 0 leaves values as they are.

    Returns:
      A pure function for use under `jit`; `key` is read only by augmentation and dynamic binarisation.

    Raises:
      DataError: an unknown name, here; x of another kind than the options need, when traced.
    """
    augment = tuple(augment)
    unknown = [name for name in augment if name not in AUGMENT]
    if unknown or binarize not in BINARIZE:
        raise DataError(f"augment takes names from {tuple(AUGMENT)}, got {augment}" if unknown else
                        f"binarize is one of {BINARIZE}, got {binarize!r}")
    if levels < 0 or levels == 1 or levels and binarize != "none":
        raise DataError(f"levels={levels} is 0 or at least 2" if binarize == "none" else
                        f"levels={levels} with binarize={binarize!r}: set one of them")
    static_key = jax.random.key(0) if static_key is None and binarize == "static" else static_key

    def transform(batch: Batch, key: Array, axis_name: str | None = None) -> Batch:
        x = to_unit(jnp.asarray(batch["x"]))
        if augment and x.ndim != 4:
            raise DataError(f"augment={augment} needs images [n h w c], x is {list(x.shape)}: set augment=()")
        if binarize != "none" and not jnp.issubdtype(x.dtype, jnp.floating):
            raise DataError(f"binarize={binarize!r} needs x in [0, 1], not {x.dtype}: set binarize='none'")
        if levels and not jnp.issubdtype(x.dtype, jnp.floating):
            raise DataError(f"levels={levels} needs x in [0, 1], not {x.dtype}: set levels=0")
        if augment or binarize == "dynamic":
            key, *keys = jax.random.split(key, 1 + len(augment))
            for name, k in zip(augment, keys, strict=True):
                x = AUGMENT[name](x, k, axis_name)
                if "semantic" in batch:  # the same key moves the map as its image
                    maps = jnp.asarray(batch["semantic"])[..., None]
                    batch = batch | {"semantic": AUGMENT[name](maps, k, axis_name)[..., 0]}
        if binarize == "dynamic":
            x = _dynamic(x, key, axis_name)
        elif binarize == "static":
            x = binarize_static(x, jnp.asarray(batch["index"]), static_key)
        elif levels:
            x = to_levels(x, levels).astype(jnp.float32) / (levels - 1)
        codes = {name: jnp.asarray(batch[name], jnp.int32) for name in ("label", "factors") if name in batch}
        return {**batch, **codes, "x": x}

    return transform


_dynamic = binarize   # the name is an argument inside `make`
