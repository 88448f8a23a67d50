"""The variational autoencoder."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae.distributions import bits_per_dim
from jaxae.losses import elbo
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `beta`: weight of the KL. `anneal_steps`: training begins with a weight of 0 and reaches `beta` after so many
    updates, 0 for none; `anneal`: 'linear' or 'sigmoid'.
    """
    return latent_model.defaults(beta=1.0, anneal_steps=0, anneal="linear")


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Kingma and Welling, Auto-Encoding Variational Bayes, 2013, arXiv 1312.6114; `beta` as in
    Higgins et al., beta-VAE, ICLR 2017; `prior='vampprior'` as in Tomczak and Welling, 2018, arXiv 1705.07120; the KL's
    annealing as in Bowman et al., Generating sentences from a continuous space, 2016, arXiv 1511.06349.

    Loss per example in nats, summed over data dimensions: -log p(x | z) + beta KL(q(z | x) || p(z)) with one
    draw of z. `elbo` is reported with beta = 1. Latents are vectors [n d]: means, or draws where `encode` is given
    a key.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model = config.model
    if model.likelihood == "mse":
        raise ValueError("a VAE needs a likelihood: use model.likelihood='gaussian', with model.scale as its "
                         "standard deviation")
    latent_model.check_density(model)
    if model.anneal not in ("linear", "sigmoid") or model.anneal_steps < 0:
        raise ValueError(f"model.anneal={model.anneal!r} must be 'linear' or 'sigmoid', and model.anneal_steps="
                         f"{model.anneal_steps} at least 0")
    dims = math.prod(example["x"].shape[1:])

    def objective(terms):
        bound = elbo(terms.log_px, terms.kl)
        metrics = {"elbo": bound, "bits_per_dim": bits_per_dim(-bound, dims)}
        beta = model.beta
        if model.anneal_steps:
            beta = metrics["beta"] = model.beta * warm_up(terms.step, model.anneal_steps, model.anneal)
        return -elbo(terms.log_px, terms.kl, beta), metrics

    return latent_model.latent_system(config, example, axis_name, objective)


def warm_up(step: Array, steps: int, kind: str = "linear") -> Array:
    """From 0 to 1 in `steps` updates: min(t / steps, 1), or the sigmoid of 12 (t / steps - 1/2), 0.0025 to 0.9975.

    >>> import jax.numpy as jnp
    >>> [round(float(warm_up(jnp.array(t), 10, kind)), 4) for kind in ("linear", "sigmoid") for t in (0, 5, 10)]
    [0.0, 0.5, 1.0, 0.0025, 0.5, 0.9975]
    """
    share = jnp.asarray(step, jnp.float32) / steps
    return jax.nn.sigmoid(12.0 * (share - 0.5)) if kind == "sigmoid" else jnp.minimum(share, 1.0)
