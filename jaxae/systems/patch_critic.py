"""A discriminator of patches as the second player of an autoencoder of images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.losses.hinge_gan import adaptive_gan_weight, hinge_discriminator_loss, hinge_generator_loss
from jaxae.nn.patch import PatchGAN
from jaxae.systems.builders import Player


class PatchCritic(NamedTuple):
    """Functions of the discriminator's parameters; images are `[n h w c]`."""

    init: Callable[[Array], PyTree]  # key -> params
    # (params, x_hat, pull, error, step) -> the generator's loss [n] and metrics
    deceiving: Callable[..., tuple[Array, dict[str, Array]]]
    discriminating: Callable[..., tuple[Array, dict[str, Array]]]  # (params, x, x_hat, step) -> its loss [n], metrics
    player: Callable[[Callable], Player]  # its loss -> the player that owns `params["critic"]`


def defaults() -> dict[str, Any]:
    """Keys of `config.model`.

    `gan`: how far the adversarial loss moves the decoder's last kernel, over how far the reconstruction moves it; 0 for
    no discriminator. From update `gan_start` on, with 3x3 convolutions of `patch_channels` and `patch_strides`, which
    learn at `patch_rate`.
    """
    return dict(gan=0.0, gan_start=0, patch_channels=(64, 64, 64), patch_strides=(2, 2, 1), patch_rate=1e-4)


def patch_critic(config: ConfigDict, shape: tuple[int, int, int], dtype=jnp.float32, axis_name: str | None = None
                 ) -> PatchCritic:
    """The discriminator of `config.model` for images of `shape`, with the hinge loss.

    The generator's loss is weight * -D(x_hat), with the weight of `adaptive_gan_weight` from the gradients of both
    losses by the decoder's last kernel, over the global batch. Both players' losses are zero before `gan_start`.

    Reference: Esser, Rombach, Ommer, 'Taming transformers for high-resolution image synthesis', 2021, arXiv 2012.09841.
    """
    model = config.model
    net = PatchGAN(tuple(model.patch_channels), tuple(model.patch_strides), dtype)

    def patches(params, x):
        return net.apply({"params": params}, x).astype(jnp.float32)

    def deceiving(params, x_hat, pull, error, step):
        """`x_hat, pull = jax.vjp(image_of, kernel)` of the decoder's last kernel, and `error(x_hat) -> [n]`."""
        def deception(y):
            return hinge_generator_loss(patches(params, y))

        shown = jax.lax.stop_gradient(x_hat)
        pulls = [pull(jax.grad(lambda y, f=f: f(y).mean())(shown)) for f in (error, deception)]
        weight = adaptive_gan_weight(*collectives.mean(pulls, axis_name), scale=model.gan)
        weight = jax.lax.stop_gradient(weight) * (step >= model.gan_start)
        each = deception(x_hat)
        return weight * each, {"deception": each, "gan_weight": weight}

    def discriminating(params, x, x_hat, step):
        real, fake = patches(params, x), patches(params, x_hat)
        each = hinge_discriminator_loss(real, fake) * (step >= model.gan_start)
        return each, {"accuracy": 0.5 * ((real > 0).mean((1, 2, 3)) + (fake < 0).mean((1, 2, 3)))}

    def player(loss):
        own = ConfigDict(dict(config.optim) | dict(learning_rate=model.patch_rate))
        return Player("critic", loss, optim.optimizer(own, config.steps), ("critic",))

    return PatchCritic(lambda key: net.init(key, jnp.zeros((1, *shape)))["params"], deceiving, discriminating, player)


__all__ = ["PatchCritic", "defaults", "patch_critic"]
