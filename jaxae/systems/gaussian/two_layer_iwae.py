"""The importance-weighted autoencoder with two stochastic layers."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.distributions import bits_per_dim, normal_log_prob, normal_sample
from jaxae.losses import importance_weighted_loss, iwae_bound, vae_k_bound
from jaxae.nn import MLP
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, System, variables
from jaxae.systems.builders import one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the networks, which join the data and the first layer.

    `latents`: dimensions of h1 and h2. `between`: hidden widths of the networks between them. `samples`, `estimator`,
    `groups`: as of `gaussian.iwae`.
    """
    return ConfigDict(networks.defaults() | dict(
        network="mlp", features=(200, 200), activation="tanh", latents=(100, 50), between=(100, 100), samples=5,
        estimator="iwae", groups=1))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The 2-layer model of Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR 2016,
    arXiv 1509.00519: p(h2) = N(0, I), p(h1 | h2) and q(h2 | h1) Gaussian by MLPs, p(x | h1), q(h1 | x).

    log w = log p(x | h1) + log p(h1 | h2) + log p(h2) - log q(h1 | x) - log q(h2 | h1), with both layers drawn anew
    for each of the k samples; the loss is minus the bound in nats per example. Latents [n d] are those of h2.

    Raises:
      ValueError: for options that do not exist or do not fit one another.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if len(tuple(model.latents)) != 2 or model.samples < 1:
        raise ValueError(f"model.latents={tuple(model.latents)} must be two dimensions, and model.samples="
                         f"{model.samples} at least 1")
    if model.likelihood == "mse":
        raise ValueError("an IWAE needs densities: a likelihood other than 'mse'")
    (first, second), k, dims = model.latents, model.samples, math.prod(shape)
    act = networks.activation(model)
    encoder = networks.vector_encoder(model, shape, 2 * first, dtype)
    upper = MLP((*model.between, 2 * second), act, dtype)  # h1 -> q(h2 | h1)
    lower = MLP((*reversed(tuple(model.between)), 2 * first), act, dtype)  # h2 -> p(h1 | h2)
    observed = networks.observation(model, shape, lambda c: networks.vector_decoder(model, shape, c, dtype), dtype,
                                    axis_name)

    def init(key, batch):
        keys = collectives.split_keys(key, ("encoder", "upper", "lower", "decoder"))
        h1, h2 = jnp.zeros((1, first)), jnp.zeros((1, second))
        return {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                "upper": upper.init(keys["upper"], h1)["params"], "lower": lower.init(keys["lower"], h2)["params"],
                "decoder": observed.init(keys["decoder"], h1)}, ()

    def gaussian(net, params, h):
        """Mean and log standard deviation."""
        return jnp.split(net.apply({"params": params}, h).astype(jnp.float32), 2, axis=-1)

    def log_density(x, mean, log_std):
        return normal_log_prob(x, mean, log_std).sum(-1)

    def log_weights_of(params, z, posterior, x):
        """[k n] from samples `[k n d]` of both layers; q by `posterior`, the first layer's moments and `upper`."""
        (h1, h2), (mean, log_std, upper_params) = z, posterior
        flat = h1.swapaxes(0, 1).reshape(-1, first)  # example by example, so that replicas keep whole examples
        log_px = observed.log_prob(params["decoder"], flat, jnp.repeat(x, h1.shape[0], axis=0))
        return (log_px.reshape(x.shape[0], -1).T + log_density(h1, *gaussian(lower, params["lower"], h2))
                + log_density(h2, 0.0, 0.0) - log_density(h1, mean, log_std)
                - log_density(h2, *gaussian(upper, upper_params, h1)))

    def samples(params, x, key, count):
        """Draws of both layers [k n d], and the first layer's moments."""
        key1, key2 = jax.random.split(key)
        mean, log_std = gaussian(encoder, params["encoder"], x)
        many = [jnp.repeat(part, count, axis=0) for part in (mean, log_std)]
        h1 = normal_sample(key1, *many, axis_name=axis_name)
        h2 = normal_sample(key2, *gaussian(upper, params["upper"], h1), axis_name=axis_name)
        shaped = tuple(h.reshape(x.shape[0], count, -1).swapaxes(0, 1) for h in (h1, h2))
        return shaped, (mean, log_std)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x, (draw_key, choice_key) = batch["x"], jax.random.split(key)
        z, (mean, log_std) = samples(params, x, draw_key, k)
        result = importance_weighted_loss(lambda p, z, q: log_weights_of(p, z, q, x), params, z,
                                          (mean, log_std, params["upper"]), model.estimator, model.groups, choice_key,
                                          axis_name)
        bound = iwae_bound(result.log_w)
        return Objective(result.loss, {"bound": bound, "elbo": vae_k_bound(result.log_w),
                                       "bits_per_dim": bits_per_dim(-bound, dims)}, extra)

    def log_weights(now, key, x, count: int, axis_name=None):
        z, (mean, log_std) = samples(now.params, x, key, count)
        return log_weights_of(now.params, z, (mean, log_std, now.params["upper"]), x)

    def encode(now, x, key=None):
        mean, log_std = gaussian(encoder, now.params["encoder"], x)
        if key is None:
            return gaussian(upper, now.params["upper"], mean)[0]
        key1, key2 = jax.random.split(key)
        return normal_sample(key2, *gaussian(upper, now.params["upper"], normal_sample(key1, mean, log_std)))

    def decode(now, h2, key=None):
        mean, log_std = gaussian(lower, now.params["lower"], h2)
        h1 = mean if key is None else normal_sample(key, mean, log_std)
        return observed.mean(now.params["decoder"], h1, jax.random.key(0) if key is None else key)

    def reconstruct(now, x, key=None):
        return observed.mean(now.params["decoder"], gaussian(encoder, now.params["encoder"], x)[0], jax.random.key(0))

    def sample(now, key, n: int):
        top, rest = jax.random.split(key)
        return decode(now, jax.random.normal(top, (n, second)), rest)

    def figures(state, batch, key):
        now = variables(state)
        return draw.comparison(batch["x"], reconstruct(now, batch["x"])) | draw.samples(sample(now, key, 64))

    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, encode=encode, decode=decode,
                    reconstruct=reconstruct, sample=sample, log_weights=log_weights, figures=figures,
                    latent=Latent((second,)))
