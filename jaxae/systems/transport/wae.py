"""The Wasserstein autoencoder, with any divergence between codes and prior."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import losses
from jaxae.systems import latent_model
from jaxae.systems.adversaries import latent_discriminator
from jaxae.systems.base import System

COSTS = ("squared", "absolute", "euclidean", "mean")
DIVERGENCES = ("none", "mmd", "gan", "sliced", "max_sliced", "generalized_sliced", "sinkhorn", "energy")


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `divergence`: 'mmd' (`kernel` 'imq', or 'rbf' of the batch's median distance), 'gan' (a discriminator on codes
    with `critic` widths and `critic_rate`; with `critic_prior` its logit is net(z) + log p(z)), 'sliced',
    'max_sliced' and 'generalized_sliced' (`projections`, order `order`), 'sinkhorn' (`epsilon`), 'energy', or 'none'
    for a plain autoencoder. `weight` is lambda; from step `growth_start` on it is multiplied by `growth` after every
    `growth_every` steps. The cost (`cost`) is `cost_scale` times 'squared' |x - x_hat|^2 or 'absolute' |x - x_hat|,
    summed over data dimensions, 'euclidean', the root of the former sum, or 'mean' of both the absolute error and
    the binary cross-entropy. `pretrain_steps`: updates at first in which the encoder alone is trained, to give codes
    of the prior's mean and covariance.
    """
    return latent_model.defaults(posterior="point", likelihood="mse", cost="squared", cost_scale=0.05, weight=10.0,
                                 growth=1.0, growth_every=1, growth_start=0, pretrain_steps=0, divergence="mmd",
                                 kernel="imq", projections=50, order=2, epsilon=0.1, critic=(512, 512, 512, 512),
                                 critic_rate=5e-4, critic_prior=True)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Tolstikhin, Bousquet, Gelly and Schoelkopf, Wasserstein auto-encoders, ICLR 2018,
    arXiv 1711.01558; with `divergence='sliced'` that of Kolouri, Pope, Martin and Rohde, Sliced-Wasserstein
    autoencoder, 2018, arXiv 1804.01947.

    The loss is the batch's mean cost c(x, G(z)) + weight * D(Q_z, P_z), where D compares the codes of the batch
    with as many draws of the prior. `penalty` reports D: squared MMD by the U-statistic, W_p^p averaged over
    projections, the Sinkhorn divergence, or the discriminator's cross-entropy. Encoders are deterministic, or random
    with posterior='diagonal' or 'full'.

    Raises:
      ValueError: for options that do not exist.
    """
    model = config.model
    if model.divergence not in DIVERGENCES:
        raise ValueError(f"model.divergence={model.divergence!r} must be one of {', '.join(DIVERGENCES)}")
    if model.cost not in COSTS:
        raise ValueError(f"model.cost={model.cost!r} must be one of {', '.join(COSTS)}")
    if model.growth_every < 1:
        raise ValueError(f"model.growth_every={model.growth_every} must be at least one step")
    adversary, logits = None, None
    if model.divergence == "gan":
        adversary, logits = latent_discriminator(model.latent, tuple(model.critic), model.critic_rate, model.weight,
                                                 model.critic_prior)

    def cost(x, x_hat):
        axes, difference = tuple(range(1, x.ndim)), x - x_hat
        if model.cost == "squared":
            return model.cost_scale * jnp.sum(difference**2, axes)
        if model.cost == "absolute":
            return model.cost_scale * jnp.sum(jnp.abs(difference), axes)
        if model.cost == "euclidean":
            return model.cost_scale * jnp.sqrt(1e-8 + jnp.sum(difference**2, axes))
        p = jnp.clip(x_hat, 1e-6, 1.0 - 1e-6)
        cross_entropy = -(x * jnp.log(p) + (1.0 - x) * jnp.log1p(-p))
        return model.cost_scale * jnp.mean(jnp.abs(difference) + cross_entropy, axes)

    def weight(step):
        return model.weight * model.growth ** (jnp.maximum(step - model.growth_start, 0) // model.growth_every)

    def divergence(terms):
        if model.divergence == "none":
            return jnp.zeros(())
        if model.divergence == "gan":
            return jax.nn.softplus(-logits(terms, terms.z))
        return compare(model, terms.z, terms.prior_draws(), terms.key, axis_name)

    def objective(terms):
        costs, penalty = cost(terms.x, terms.x_hat(terms.z)), divergence(terms)
        value, metrics = costs + weight(terms.step) * penalty, {"cost": costs, "penalty": penalty}
        if model.pretrain_steps:
            metrics["moments"] = moment_distance(terms.z, terms.prior_draws(), axis_name)
            if terms.train:
                value = jnp.where(terms.step < model.pretrain_steps, metrics["moments"], value)
        return value, metrics

    return latent_model.latent_system(config, example, axis_name, objective, adversary=adversary)


def moment_distance(z, z_prior, axis_name: str | None = None):
    """Mean squared differences of the mean and of the covariance of two batches of codes [n d], a scalar."""
    codes, draws = (losses.aggregate_moments(batch, axis_name=axis_name) for batch in (z, z_prior))
    return jnp.mean((codes.mean - draws.mean) ** 2) + jnp.mean((codes.covariance - draws.covariance) ** 2)


def compare(model, z, z_prior, key, axis_name: str | None = None):
    """The divergence `model.divergence` between two batches of codes [n d], a scalar."""
    key = jax.random.fold_in(key, 1)  # `key` itself drew the prior's batch
    if model.divergence == "mmd":
        kernel = losses.inverse_multiquadric() if model.kernel == "imq" else losses.rbf(
            losses.median_bandwidth(z, z_prior, axis_name))
        return losses.mmd(z, z_prior, kernel, axis_name=axis_name)
    if model.divergence == "energy":
        return losses.energy_distance(z, z_prior, axis_name=axis_name)
    if model.divergence == "sinkhorn":
        return losses.sinkhorn_divergence(z, z_prior, model.epsilon, axis_name=axis_name)
    if model.divergence == "max_sliced":
        return losses.max_sliced_wasserstein(z, z_prior, key, p=model.order, axis_name=axis_name).distance
    sliced = losses.sliced_wasserstein if model.divergence == "sliced" else losses.generalized_sliced_wasserstein
    return sliced(z, z_prior, key, model.projections, model.order, axis_name=axis_name)
