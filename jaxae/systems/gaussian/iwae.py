"""The importance-weighted autoencoder and its relatives."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.distributions import bits_per_dim
from jaxae.losses import importance_weighted_loss, iwae_bound, vae_k_bound
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `samples`: k, of each example. `estimator`: 'iwae', 'dreg', 'stl', 'sampled', 'piwae', or 'vae' for k draws of
    the plain ELBO. `groups`: m groups of k / m samples (MIWAE, PIWAE). `elbo_share`: beta of CIWAE, which gives the
    ELBO that share of the bound.
    """
    return latent_model.defaults(samples=5, estimator="iwae", groups=1, elbo_share=0.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR 2016, arXiv 1509.00519;
    gradient estimators of Roeder et al. 2017 (arXiv 1703.09194) and Tucker et al. 2018 (arXiv 1810.04152); MIWAE,
    CIWAE and PIWAE of Rainforth et al. 2018 (arXiv 1802.04537).

    The loss is minus the bound log 1/k sum_i w_i per example, in nats, with k fresh draws of z for each example.
    `bound` reports it, `elbo` is the mean of the same k log-weights.

    Raises:
      ValueError: for options that do not exist or do not fit one another.
    """
    model = config.model
    if model.samples < 1:
        raise ValueError(f"model.samples={model.samples} must be at least 1")
    if model.likelihood == "mse" or model.posterior not in ("diagonal", "full", "mixture"):
        raise ValueError("an IWAE needs densities at any z: a likelihood other than 'mse', and model.posterior="
                         "'diagonal', 'full' or 'mixture'")
    if not 0.0 <= model.elbo_share <= 1.0:
        raise ValueError(f"model.elbo_share={model.elbo_share} must lie in [0, 1]")
    k, dims = model.samples, math.prod(example["x"].shape[1:])

    def objective(terms):
        core, (n, d), x = terms.model, terms.z.shape, terms.x
        every = jnp.repeat(x, k, axis=0)
        draw_key, choice_key = jax.random.split(terms.key)
        z = core.posterior.sample(jnp.repeat(terms.out, k, axis=0), draw_key, axis_name)

        def log_w(params, z, out):
            flat, count = z.swapaxes(0, 1).reshape(-1, d), z.shape[0]
            pixels = every if count == k else jnp.repeat(x, count, axis=0)
            weights = (core.observed.log_prob(params["decoder"], flat, pixels) + core.log_prior(params, flat)
                       - core.posterior.log_prob(jnp.repeat(out, count, axis=0), flat))
            return weights.reshape(n, count).T  # [k n]

        samples = z.reshape(n, k, d).swapaxes(0, 1)
        result = importance_weighted_loss(log_w, terms.params, samples, terms.out, model.estimator, model.groups,
                                          choice_key, axis_name)
        loss, bound, elbo = result.loss, iwae_bound(result.log_w), vae_k_bound(result.log_w)
        if model.elbo_share:
            plain = importance_weighted_loss(log_w, terms.params, samples, terms.out, "vae").loss
            loss = model.elbo_share * plain + (1.0 - model.elbo_share) * loss
        return loss, {"bound": bound, "elbo": elbo, "bits_per_dim": bits_per_dim(-bound, dims)}

    return latent_model.latent_system(config, example, axis_name, objective)
