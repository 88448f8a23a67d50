"""beta-TC-VAE and FactorVAE: VAEs that punish the dependence of latents on one another."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import (
    beta_tc_kl,
    decompose_kl,
    density_ratio_tc,
    elbo,
    permute_dims,
    tc_discriminator_loss,
)
from jaxae.nn import MLP
from jaxae.systems import latent_model
from jaxae.systems.base import System
from jaxae.systems.latent_model import Adversary


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `estimator`: 'weighted', 'stratified' or 'symmetric' estimate the total correlation from the batch (beta-TC-VAE),
    'adversary' by a discriminator (FactorVAE) of widths `critic` and rate `critic_rate`. `tc`: weight of the total
    correlation (in all for beta-TC-VAE, in addition to the KL's own for FactorVAE). `examples`: size of the
    training set.
    """
    return latent_model.defaults(estimator="stratified", tc=6.0, examples=4000, critic=(256, 256, 256),
                                 critic_rate=1e-4)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The systems of Chen et al., Isolating sources of disentanglement in variational autoencoders, 2018,
    arXiv 1802.04942, and of Kim and Mnih, Disentangling by factorising, 2018, arXiv 1802.05983.

    Loss per example in nats: -log p(x | z) + mutual information + tc * total correlation + dimension-wise KL, or
    minus the ELBO + tc * log D / (1 - D) with D the adversary. `total_correlation` reports the estimate.

    Raises:
      ValueError: for an estimator that does not exist, or a posterior that is not diagonal.
    """
    model = config.model
    if model.posterior != "diagonal":
        raise ValueError("the total correlation is that of a factorised posterior: use model.posterior='diagonal'")
    if model.estimator not in ("weighted", "stratified", "symmetric", "adversary"):
        raise ValueError(f"model.estimator={model.estimator!r} must be weighted, stratified, symmetric or adversary")
    net = MLP((*model.critic, 2), activation=lambda h: jax.nn.leaky_relu(h, 0.2))

    def logits(terms, z):
        return net.apply({"params": terms.params["adversary"]}, z)

    def by_batch(terms):
        family = terms.model.posterior
        parts = decompose_kl(terms.z, family.mean(terms.out), family.log_std(terms.out), model.examples,
                             model.estimator, terms.model.log_prior(terms.params, terms.z), axis_name)
        metrics = {"elbo": elbo(terms.log_px, terms.kl), "total_correlation": parts.total_correlation,
                   "mutual_information": parts.mutual_information}
        return -terms.log_px + beta_tc_kl(parts, beta=model.tc), metrics

    def by_adversary(terms):
        tc = density_ratio_tc(logits(terms, terms.z))
        bound = elbo(terms.log_px, terms.kl)
        return -bound + model.tc * tc, {"elbo": bound, "total_correlation": tc}

    def adversarial(terms):
        permuted = permute_dims(terms.key, terms.z, axis_name)
        return tc_discriminator_loss(logits(terms, terms.z), logits(terms, permuted)), {}

    if model.estimator != "adversary":
        return latent_model.latent_system(config, example, axis_name, by_batch)
    adversary = Adversary(lambda key: net.init(key, jnp.zeros((1, model.latent)))["params"], adversarial,
                          model.critic_rate)
    return latent_model.latent_system(config, example, axis_name, by_adversary, adversary=adversary)
