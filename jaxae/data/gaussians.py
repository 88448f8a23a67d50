"""Mixtures of isotropic Gaussians with known parameters, on a circle or a grid."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxae.data.source import ArraySource, DataError


class Mixture(NamedTuple):
    """Equally weighted components N(means_k, std^2 I)."""

    means: np.ndarray   # [k d] float32
    std: float


def mixture(components: int = 8, dim: int = 2, layout: str = "circle", radius: float = 2.0,
            std: float = 0.1) -> Mixture:
    """Places the components.

    Args:
      components: K.
      dim: d, dimensions of the data.
      layout: 'circle' in the first two dimensions, or 'grid': the first K points of a d-dimensional lattice
        of ceil(K^(1/d)) points a side.
      radius: of the circle, or half the width of the grid.
      std: standard deviation of each component.

    Returns:
      The mixture, means `[k d]`.

    Raises:
      DataError: numbers that make no mixture.
    """
    if components < 1 or dim < 1 or std <= 0 or (layout == "circle" and dim < 2):
        raise DataError("a mixture needs components >= 1, std > 0 and dim >= 1 (2 for a circle); got "
                        f"components={components}, std={std}, dim={dim}, layout={layout!r}")
    if layout == "circle":
        angle = 2 * np.pi * np.arange(components) / components
        means = np.zeros((components, dim))
        means[:, 0], means[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    elif layout == "grid":
        side = next(s for s in range(1, components + 1) if s**dim >= components)
        axes = min(dim, components.bit_length())   # two points on so many axes are enough
        lattice = np.stack(np.unravel_index(np.arange(components), (side,) * axes), -1)
        lattice = np.pad(lattice, ((0, 0), (dim - lattice.shape[1], 0)))
        means = radius * (2 * lattice / max(side - 1, 1) - (1 if side > 1 else 0))
    else:
        raise DataError(f"layout is 'circle' or 'grid', got {layout!r}")
    return Mixture(means.astype(np.float32), float(std))


def log_prob(mixture: Mixture, x: Num[Array, "n d"]) -> Float[Array, "n"]:
    r"""$\log \frac1K \sum_k N(x; \mu_k, \sigma^2 I)$, nats per example.

    Args:
      mixture: the parameters.
      x: points `[n d]`.

    Returns:
      `[n]`.
    """
    d = x.shape[-1]
    square = jnp.sum(jnp.square(x[:, None] - mixture.means), -1) / mixture.std**2   # [n k]
    each = -0.5 * square - d * (jnp.log(mixture.std) + 0.5 * jnp.log(2 * jnp.pi))
    return jax.nn.logsumexp(each, axis=-1) - jnp.log(len(mixture.means))


def gaussians(components: int = 8, dim: int = 2, layout: str = "circle", radius: float = 2.0,
              std: float = 0.1, num_train: int = 0, num_test: int = 0,
              seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Points drawn from `mixture(...)`, labelled by component.

    Args:
      components: K.
      dim: d.
      layout: 'circle' or 'grid'.
      radius: of the circle, or half the grid's width.
      std: of each component.
      num_train: training points; 0 is 4,000.
      num_test: test points; 0 is 1,000.
      seed: seed of the draw.

    Returns:
      Train and test; `x` float32 `[n d]`, `label` int32 `[n]`; `info['mixture']` has the true parameters.
    """
    truth = mixture(components, dim, layout, radius, std)

    def draw(n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        label = rng.integers(0, components, n, dtype=np.int32)
        x = truth.means[label] + truth.std * rng.standard_normal((n, dim), dtype=np.float32)
        return ArraySource({"x": x.astype(np.float32), "label": label}, {"mixture": truth})

    return draw(num_train or 4000, 0), draw(num_test or 1000, 1)
