"""Arrays that a person wants to look at, by the type of the data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae.losses.spectral import spectrogram


def comparison(x: Array, x_hat: Array, count: int = 32) -> dict[str, Array]:
    """Inputs over reconstructions for images and sentences, spectra and curves of both for waveforms, both clouds for
    points in the plane, nothing for the rest.
    """
    if is_sound(x):
        both = jnp.stack([x[:8], x_hat[:8]])
        return {"reconstructions": spectra(both), "reconstructions_waveforms": both[..., 0]}
    if _is_text(x):
        return {"reconstructions": _paragraphs(jnp.stack([x[:count // 2], x_hat[:count // 2]], 1))}
    if x.ndim == 4:
        return {"reconstructions": jnp.clip(jnp.stack([x[:count], x_hat[:count]]), 0.0, 1.0)}
    if x.ndim == 2 and x.shape[1] == 2:
        return {"reconstructions": jnp.concatenate([x, x_hat]),
                "reconstructions_labels": jnp.repeat(jnp.arange(2), x.shape[0])}
    return {}


def samples(x_hat: Array) -> dict[str, Array]:
    """A grid of images, spectra and curves of waveforms, a list of sentences, or a cloud of points."""
    if is_sound(x_hat):
        return {"samples": spectra(x_hat[:16]), "samples_waveforms": x_hat[None, :8, :, 0]}
    if _is_text(x_hat):
        return {"samples": x_hat}
    if x_hat.ndim == 4:
        return {"samples": jnp.clip(x_hat, 0.0, 1.0)}
    return {"samples": x_hat} if x_hat.ndim == 2 and x_hat.shape[1] == 2 else {}


def is_sound(x: Array) -> bool:
    """Whether these are waveforms `[n t 1]`."""
    return x.ndim == 3 and x.shape[-1] == 1 and not jnp.issubdtype(x.dtype, jnp.integer)


def spectra(x: Array) -> Array:
    """Waveforms `[... t 1]` as pictures `[... f s 1]`: time to the right, frequency upwards, 70 dB from black to white.
    """
    size = 1 << max(4, min(9, (x.shape[-2] // 8).bit_length()))  # time and frequency about as fine as one another
    level = 20.0 * jnp.log10(spectrogram(x[..., 0], size, max(1, x.shape[-2] // 128)) * 4.0 / size + 1e-6)
    return jnp.clip((level + 70.0) / 70.0, 0.0, 1.0)[..., ::-1, :, None]


def coloured(maps: Array, classes: int) -> Array:
    """Maps of class numbers `[... h w]` as images `[... h w 3]`: class 0 is dark, what is no class black."""
    k = jnp.arange(1, classes)[:, None]
    # Steps by the golden ratio set neighbouring classes far apart on the circle of hues.
    turn = 2.0 * jnp.pi * (0.618034 * k + jnp.array([0.0, 1.0, 2.0]) / 3.0)
    palette = jnp.concatenate([jnp.full((1, 3), 0.2), 0.55 + 0.45 * jnp.cos(turn), jnp.zeros((1, 3))])
    return palette[jnp.where((maps >= 0) & (maps < classes), maps, classes)]


def interpolations(x: Array, z: Array, decode: Callable[[Array], Array], count: int = 6,
                   steps: int = 7) -> dict[str, Array]:
    """Sentences on the lines between the latents `z [n d]` of pairs of sentences; nothing for other data."""
    count = min(count, z.shape[0] // 2)
    if not _is_text(x) or not count:
        return {}
    weight = jnp.linspace(0.0, 1.0, steps)[:, None]
    points = (1.0 - weight) * z[:count, None] + weight * z[count:2 * count, None]  # [count steps d]
    return {"interpolations": _paragraphs(decode(points.reshape(-1, z.shape[1])).reshape(count, steps, -1))}


def code_lines(decode: Callable[[Array], Array], code: Array, values: Array, most: int = 16) -> dict[str, Array]:
    """Images of one example with each of its codes at each value: `traversals [codes of an example, values h w c]`.

    Args:
      decode: `[n *shape]` of the code's type to `x_hat [n ...]`.
      code: the example's codes, or numbers, `[*shape]`.
      values: that each of them takes `[k]`.
      most: nothing is shown of more codes or values, nor of data that are not images.
    """
    shape, places, count = code.shape, code.size, len(values)
    if places > most or count > most:
        return {}
    lines = jnp.broadcast_to(code.reshape(-1), (places, count, places))
    lines = jax.vmap(lambda rows, i: rows.at[:, i].set(values))(lines, jnp.arange(places))
    x_hat = decode(lines.reshape(-1, *shape))
    return {"traversals": jnp.clip(x_hat, 0.0, 1.0).reshape(places, count, *x_hat.shape[1:])} if x_hat.ndim == 4 else {}


def _is_text(x: Array) -> bool:
    return x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)


def _paragraphs(sentences: Array) -> Array:
    """Groups of sentences `[n k t]` with an empty line after each group: [n*(k+1) t]."""
    return jnp.pad(sentences, ((0, 0), (0, 1), (0, 0))).reshape(-1, sentences.shape[-1])


def most_frequent(atoms: Array, frequency: Array, shape: tuple[int, ...], count: int = 64) -> Array:
    """The atoms `[m o]` that fire most often as images of a shape, grey where they are zero."""
    pictures = atoms[jnp.argsort(-frequency)[:count]].reshape(-1, *shape)
    return 0.5 + 0.5 * pictures / jnp.maximum(jnp.abs(pictures).max((1, 2, 3), keepdims=True), 1e-8)
