"""A VAE whose latent is a map: what diffusion and autoregressive models on latents start from."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.distributions import bits_per_dim
from jaxae.losses import elbo, gaussian_kl
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, System, variables
from jaxae.systems.builders import one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `networks.defaults` for maps (network 'conv').

    `latent`: channels of the latent map. `beta`: weight of the KL, small where a prior is fitted to the latents later.
    """
    return ConfigDict(networks.defaults() | dict(latent=4, beta=0.01, likelihood="gaussian", scale=0.1))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The KL-regularised autoencoder of Rombach et al., 'High-resolution image synthesis with latent diffusion models',
    2021, arXiv 2112.10752, with a likelihood in place of its perceptual and adversarial losses.

    Loss per example in nats, summed over data dimensions: -log p(x | z) + beta KL(q(z | x) || N(0, I)) with one draw
    of z; `elbo` is reported with beta = 1. Latents are maps [n h w latent]: means, or draws where `encode` is given a
    key.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.likelihood == "mse":
        raise ValueError("a VAE needs a likelihood: use model.likelihood='gaussian', with model.scale as its "
                         "standard deviation")
    latent, dims = (*networks.map_shape(model, shape), model.latent), math.prod(shape)
    encoder = networks.map_encoder(model, shape, 2 * model.latent, dtype)
    observed = networks.observation(model, shape, partial(networks.map_decoder, model, dtype=dtype), dtype, axis_name)

    def posterior(params, x):
        """Mean and log standard deviation, [n h w latent] each."""
        out = encoder.apply({"params": params["encoder"]}, x).astype(jnp.float32)
        mean, log_std = jnp.split(out, 2, axis=-1)
        return mean, jnp.clip(log_std, -10.0, 5.0)

    def init(key, batch):
        keys = collectives.split_keys(key, ("encoder", "decoder"))
        return {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                "decoder": observed.init(keys["decoder"], jnp.zeros((1, *latent)))}, ()

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x = batch["x"]
        mean, log_std = posterior(params, x)
        z = mean + jnp.exp(log_std) * collectives.draw(jax.random.normal, key, mean.shape, axis_name)
        log_px, kl = observed.log_prob(params["decoder"], z, x), gaussian_kl(mean, log_std)
        bound = elbo(log_px, kl)
        metrics = {"elbo": bound, "bits_per_dim": bits_per_dim(-bound, dims), "kl": kl, "reconstruction": -log_px}
        if not train:
            metrics |= observed.errors(x, observed.mean(params["decoder"], mean, key))
        return Objective(-elbo(log_px, kl, model.beta), metrics, extra)

    def encode(now, x, key: Array | None = None):
        mean, log_std = posterior(now.params, x)
        return mean if key is None else mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)

    def decode(now, z, key: Array | None = None):
        return observed.mean(now.params["decoder"], z, jax.random.key(0) if key is None else key)

    def reconstruct(now, x, key: Array | None = None):
        return decode(now, encode(now, x), key)

    def sample(now, key, n: int):
        """Decoded draws of N(0, I); a prior that is fitted to the latents (configs/prior.py) samples far better."""
        latent_key, pixel_key = jax.random.split(key)
        return decode(now, jax.random.normal(latent_key, (n, *latent)), pixel_key)

    def figures(state, batch, key):
        now = variables(state)
        return draw.comparison(batch["x"], reconstruct(now, batch["x"])) | draw.samples(sample(now, key, 64))

    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, encode=encode, decode=decode,
                    reconstruct=reconstruct, sample=sample, figures=figures, latent=Latent(latent))


__all__ = ["build", "defaults"]
