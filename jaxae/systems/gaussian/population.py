"""A VAE that matches the moments of the aggregate posterior, with a discriminator of patches."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import individual_variance_kl, population_kl
from jaxae.nn.patch import PatchGAN
from jaxae.systems import latent_model
from jaxae.systems.base import System
from jaxae.systems.latent_model import Adversary


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `reconstruction`: weight of the mean absolute error of a data dimension. `individual`: weight of the variance
    term. `include_within`: count the posteriors' own variances in the moments; `full_covariance`: match correlations
    too. `adversarial`: weight of the PatchGAN, 0 for none, with `patch_channels` and `patch_strides` and its rate.
    """
    return latent_model.defaults(likelihood="bernoulli", reconstruction=500.0, individual=0.1, include_within=False,
                                 full_covariance=False, adversarial=0.0, patch_channels=(64, 64, 64),
                                 patch_strides=(2, 2, 1), patch_rate=1e-4)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Rivera, How to train your VAE, 2023, arXiv 2309.13160.

    Loss of a batch: reconstruction * mean |x - x_hat| + KL(N(M, V) || N(0, I)) of the batch's moments of z, + the
    variance term of each posterior, + adversarial * cross-entropy of the reconstruction's patches as real ones.

    Raises:
      ValueError: for a posterior that is not diagonal, or patches of data that are not images.
    """
    model, images = config.model, len(example["x"].shape) == 4
    if model.posterior != "diagonal":
        raise ValueError("the moments are those of diagonal posteriors: use model.posterior='diagonal'")
    if model.adversarial and not images:
        raise ValueError("a PatchGAN needs images [n h w c]: set model.adversarial=0.0")
    net = PatchGAN(tuple(model.patch_channels), tuple(model.patch_strides))

    def patches(terms, x):
        return net.apply({"params": terms.params["adversary"]}, x)

    def objective(terms):
        family = terms.model.posterior
        mean, log_std = family.mean(terms.out), family.log_std(terms.out)
        x_hat = terms.x_hat(terms.z)
        error = jnp.mean(jnp.abs(terms.x - x_hat), axis=tuple(range(1, terms.x.ndim)))
        aggregate = population_kl(mean, log_std if model.include_within else None, model.full_covariance,
                                  axis_name=axis_name)
        individual = individual_variance_kl(log_std, model.individual)
        loss = model.reconstruction * error + aggregate + individual
        metrics = {"absolute_error": error, "population_kl": aggregate, "log_std": log_std.mean(-1)}
        if model.adversarial:
            loss = loss + model.adversarial * jnp.mean(jax.nn.softplus(-patches(terms, x_hat)), axis=(1, 2, 3))
        return loss, metrics

    def adversarial(terms):
        real, fake = patches(terms, terms.x), patches(terms, terms.x_hat(terms.z))
        each = jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake), axis=(1, 2, 3))
        return model.adversarial * each, {"accuracy": 0.5 * ((real > 0).mean((1, 2, 3)) + (fake < 0).mean((1, 2, 3)))}

    adversary = None
    if model.adversarial:
        shape = (1, *example["x"].shape[1:])
        adversary = Adversary(lambda key: net.init(key, jnp.zeros(shape))["params"], adversarial, model.patch_rate)
    return latent_model.latent_system(config, example, axis_name, objective, adversary=adversary)
