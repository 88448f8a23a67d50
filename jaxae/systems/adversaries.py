"""Latent discriminators: the second player of adversarial autoencoders."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxae.nn import MLP
from jaxae.systems.latent_model import Adversary, Terms


def latent_discriminator(size: int, features: tuple[int, ...], learning_rate: float, weight: float = 1.0,
                         adds_prior: bool = True):
    """A network T(z) that tells draws of the prior from codes.

    It minimises weight * (BCE(T(z_p), 1) + BCE(T(z_q), 0)) / 2.

    Args:
      size: dimension of z.
      features: widths of the hidden layers.
      learning_rate: of its optimizer.
      weight: of its loss.
      adds_prior: T(z) = net(z) + log p(z), clipped from below, so that the net learns no more than minus log q(z);
        without, T(z) = net(z).

    Returns:
      (adversary, logits): the player, and `logits(terms, z) -> [n]` for the autoencoder's objective.

    Reference: Tolstikhin et al., Wasserstein auto-encoders, ICLR 2018, arXiv 1711.01558; Makhzani et al.,
    Adversarial autoencoders, 2015, arXiv 1511.05644.
    """
    net = MLP((*features, 1))

    def init(key: Array) -> PyTree:
        return net.init(key, jnp.zeros((1, size)))["params"]

    def logits(terms: Terms, z: Array) -> Array:
        learned = net.apply({"params": terms.params["adversary"]}, z)[:, 0]
        return learned + jnp.maximum(terms.model.log_prior(terms.params, z), -100.0) if adds_prior else learned

    def loss(terms: Terms):
        real, fake = logits(terms, terms.prior_draws()), logits(terms, terms.z)
        each = 0.5 * (jax.nn.softplus(-real) + jax.nn.softplus(fake))
        return weight * each, {"accuracy": 0.5 * ((real > 0) + 1.0 * (fake < 0))}

    return Adversary(init, loss, learning_rate), logits
