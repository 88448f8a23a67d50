"""Arrays that a person wants to look at, by the type of the data."""

import jax.numpy as jnp
from jaxtyping import Array


def comparison(x: Array, x_hat: Array, count: int = 32) -> dict[str, Array]:
    """Inputs over reconstructions for images, both clouds for points in the plane, nothing for the rest."""
    if x.ndim == 4:
        return {"reconstructions": jnp.clip(jnp.stack([x[:count], x_hat[:count]]), 0.0, 1.0)}
    if x.ndim == 2 and x.shape[1] == 2:
        return {"reconstructions": jnp.concatenate([x, x_hat]),
                "reconstructions_labels": jnp.repeat(jnp.arange(2), x.shape[0])}
    return {}


def samples(x_hat: Array) -> dict[str, Array]:
    """A grid of images, or a cloud of points."""
    if x_hat.ndim == 4:
        return {"samples": jnp.clip(x_hat, 0.0, 1.0)}
    return {"samples": x_hat} if x_hat.ndim == 2 and x_hat.shape[1] == 2 else {}
