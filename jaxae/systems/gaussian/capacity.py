"""The VAE whose KL is led along a growing capacity."""

import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import capacity_loss, elbo, linear_capacity
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `capacity_start`, `capacity`: C in nats at the first update and after `capacity_steps`. `gamma`: weight of
    |KL - C|. `reduce`: 'batch' takes the KL's mean over the batch before the absolute value, 'example' after.
    """
    return latent_model.defaults(capacity_start=0.0, capacity=12.0, capacity_steps=2000, gamma=100.0, reduce="batch")


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Burgess et al., Understanding disentangling in beta-VAE, 2018, arXiv 1804.03599.

    Loss of a batch, in nats: mean -log p(x | z) + gamma |mean KL(q(z | x) || N(0, I)) - C(t)|, C rising linearly, both
    terms summed over their dimensions. `capacity` reports C, `excess` |KL - C| of a batch and, in training,
    `kl_of_latents` [d] the KL of each latent, so that a run's history tells in which order they open. At C = 0 gamma is
    the weight of a beta-VAE's KL.

    Raises:
      ValueError: for a posterior whose dimensions are not independent, or another prior than N(0, I).
    """
    model = config.model
    if model.posterior != "diagonal" or model.prior != "normal":
        raise ValueError("capacities are counted by dimension: use model.posterior='diagonal' and model.prior='normal'")

    def objective(terms):
        c = linear_capacity(terms.step, model.capacity_start, model.capacity, model.capacity_steps)
        each = terms.model.posterior.kl_each(terms.out)
        result = capacity_loss(-terms.log_px, each, c, model.gamma, model.reduce, axis_name)
        metrics = {"elbo": elbo(terms.log_px, terms.kl), "capacity": c, "excess": jnp.abs(result.kl.sum() - c)}
        return result.loss, metrics | ({"kl_of_latents": each} if terms.train else {})

    return latent_model.latent_system(config, example, axis_name, objective)
