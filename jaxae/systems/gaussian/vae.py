"""The variational autoencoder with a diagonal Gaussian posterior."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.distributions import bits_per_dim, normal_log_prob, normal_sample, sum_event
from jaxae.losses import elbo, gaussian_kl
from jaxae.metrics import mse
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, State, System, variables
from jaxae.systems.builders import one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`: `latent` is the dimension of z, `beta` the weight of the KL."""
    return ConfigDict(networks.defaults() | dict(network="mlp", latent=16, beta=1.0))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Kingma and Welling, Auto-Encoding Variational Bayes, 2013, arXiv 1312.6114; `beta` as in
    Higgins et al., beta-VAE, ICLR 2017.

    Loss per example in nats, summed over data dimensions: -log p(x | z) + beta KL(q(z | x) || N(0, I)) with one
    draw of z = mean + std * noise. `elbo` is reported with beta = 1. Latents are vectors [n d]: means, or draws
    where `encode` is given a key.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.latent < 1:
        raise ValueError(f"model.latent={model.latent} must be at least 1")
    if model.likelihood == "mse":
        raise ValueError("a VAE needs a likelihood: use model.likelihood='gaussian', with model.scale as its "
                         "standard deviation")
    size, dims = model.latent, math.prod(shape)
    encoder = networks.vector_encoder(model, shape, 2 * size, dtype)
    observed = networks.observation(model, shape, lambda c: networks.vector_decoder(model, shape, c, dtype), dtype,
                                    axis_name)

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("encoder", "decoder"))
        return {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                "decoder": observed.init(keys["decoder"], jnp.zeros((1, size)))}, ()

    def posterior(params, x):
        """Mean and log standard deviation, [n d] each."""
        return jnp.split(encoder.apply({"params": params["encoder"]}, x).astype(jnp.float32), 2, axis=-1)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x = batch["x"]
        keys = collectives.split_keys(key, ("z", "pixels"))
        mean, log_std = posterior(params, x)
        z = normal_sample(keys["z"], mean, log_std, axis_name=axis_name)
        log_px = observed.log_prob(params["decoder"], z, x)
        kl = gaussian_kl(mean, log_std)
        bound = elbo(log_px, kl)
        metrics = {"elbo": bound, "reconstruction": -log_px, "kl": kl, "bits_per_dim": bits_per_dim(-bound, dims)}
        if not train and model.decoder == "factorised":
            metrics["mse"] = mse(x, observed.mean(params["decoder"], mean, keys["pixels"]))
        return Objective(-elbo(log_px, kl, model.beta), metrics, extra)

    def log_weights(model_variables, key, x, k: int, axis_name=None):
        params = model_variables.params
        mean, log_std = posterior(params, x)
        n = x.shape[0]
        # Batch axis first, so that replicas cut the same noise that one device draws.
        noise = collectives.draw(jax.random.normal, key, (n, k, size), axis_name).swapaxes(0, 1)
        z = mean + jnp.exp(log_std) * noise  # [k n d]
        every = jnp.broadcast_to(x, (k, *x.shape)).reshape(k * n, *shape)
        log_px = observed.log_prob(params["decoder"], z.reshape(k * n, size), every).reshape(k, n)
        log_pz = sum_event(normal_log_prob(z, 0.0, 0.0), batch_axes=2)
        log_qz = sum_event(normal_log_prob(z, mean, log_std), batch_axes=2)
        return log_px + log_pz - log_qz

    def encode(model_variables, x, key=None):
        mean, log_std = posterior(model_variables.params, x)
        return mean if key is None else normal_sample(key, mean, log_std)

    def decode(model_variables, z, key=None):
        return observed.mean(model_variables.params["decoder"], z, jax.random.key(0) if key is None else key)

    def reconstruct(model_variables, x, key=None):
        return decode(model_variables, encode(model_variables, x), key)

    def sample(model_variables, key, n: int):
        latent_key, pixel_key = jax.random.split(key)
        return decode(model_variables, jax.random.normal(latent_key, (n, size)), pixel_key)

    def figures(state: State, batch, key):
        now, keys = variables(state), collectives.split_keys(key, ("pixels", "samples"))
        mean, log_std = posterior(now.params, batch["x"])
        shown = draw.comparison(batch["x"], decode(now, mean, keys["pixels"]))
        shown |= draw.samples(sample(now, keys["samples"], 64))
        shown["kl_of_latents"] = gaussian_kl(mean.reshape(-1, 1), log_std.reshape(-1, 1)).reshape(mean.shape).mean(0)
        if len(shape) == 3 and model.decoder == "factorised":
            shown["traversals"] = traversals(now, mean, shown["kl_of_latents"])
        if size == 2 and "label" in batch:
            shown |= {"latents": mean, "latents_labels": batch["label"]}
        return shown

    def traversals(now, mean, information, steps: int = 11):
        """Decoded lines from -3 to 3 along the most informative latents, around the first example: [k n h w c]."""
        count = min(8, size)
        chosen = jax.lax.top_k(information, count)[1]
        line = jnp.linspace(-3.0, 3.0, steps)
        points = jnp.broadcast_to(mean[0], (count, steps, size))
        points = jax.vmap(lambda rows, i: rows.at[:, i].set(line))(points, chosen)
        return jnp.clip(decode(now, points.reshape(-1, size)).reshape(count, steps, *shape), 0.0, 1.0)

    return one_loss(
        init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
        accumulate=config.optim.accumulate, axis_name=axis_name, encode=encode, decode=decode,
        reconstruct=reconstruct, sample=sample, log_weights=log_weights, figures=figures, latent=Latent((size,)))
