"""A generative adversarial network that is told codes of a latent quantizer and has to let them be read off."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.losses.gradient_penalty import gradient_penalty
from jaxae.metrics import mse
from jaxae.quantizers import Codes, Quantized, Quantizer
from jaxae.quantizers.latent import latent_quantization
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, State, System, variables
from jaxae.systems.builders import Player, players


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `networks.defaults`.

    `width` latents of `codes` values each, one row of values for all of them where `shared`, which move where
    `learned`; of 0 `codes` any number in [0, 1], without a quantizer (InfoWGAN-GP). `latent_weight` of the codes'
    recovery, `value_weight` of the critic's value, `gradient_weight` of its gradient penalty, `beta` of the quantizer's
    two losses; `critic_updates` of the critic for one of the generator.
    """
    return ConfigDict(networks.defaults() | dict(
        network="style", channels=(32, 64), blocks=1, features=(128, 128), width=8, codes=8, shared=False, learned=True,
        beta=0.01, latent_weight=200.0, value_weight=1.0, gradient_weight=10.0, critic_updates=5))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The QLInfoWGAN-GP of Hsu, Dorrell, Whittington, Wu and Finn, Disentanglement via latent quantization, 2023,
    arXiv 2305.18378: InfoGAN (Chen et al., 2016, arXiv 1606.03657) with the critic of a Wasserstein GAN with gradient
    penalty (Gulrajani et al., 2017, arXiv 1704.00028) and quantized codes for all of its latents.

    Codes k are uniform, z_j = v_j,k_j their values, x' = G(z). One network of two heads gives the critic's value D(x)
    and the encoder's numbers, which the quantizer maps to z_hat(x), straight through. Each minimises, per example,

        critic:     value_weight (D(x') - D(x)) + gradient_weight (|grad D(between)| - 1)^2 + L
        generator: -value_weight D(x') + L
        L = latent_weight mean_j (z_hat_j(x') - z_j)^2 + beta mean_j (sg[z_c] - z_q)^2 + beta mean_j (z_c - sg[z_q])^2

    Without a quantizer z is uniform on [0, 1]^width and L = latent_weight mean_j (z_hat_j(x') - z_j)^2 alone: the
    paper's baseline. The values belong to the generator. The critic's `critic_updates` in one step see the same
    examples with other codes; the published code gives it another batch each time. `recovered` is the share of codes
    that the encoder reads off generated examples without an error.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.critic_updates < 1:
        raise ValueError(f"model.critic_updates={model.critic_updates} must be at least 1")
    quantizer = latent_quantization(model.width, model.codes, model.beta, model.beta, model.shared, model.learned) \
        if model.codes else _numbers(model.width)
    learned = model.learned and model.codes > 0
    width, latent = model.width, (model.width,) if model.width > 1 else ()
    encoder = networks.vector_encoder(model, shape, width + 1, dtype, axis_name)
    observed = networks.observation(
        model, shape, lambda channels: networks.vector_decoder(model, shape, channels, dtype, axis_name), dtype,
        axis_name)

    def read(params, x):
        """The encoder's numbers [n width] and the critic's value [n]."""
        out = encoder.apply({"params": params["encoder"]}, x)
        return out[:, :width], out[:, width]

    def generate(params, z):
        return observed.mean(params["generator"], z, jax.random.key(0))

    def state_of(params, extra):
        return Codes(params.get("codes", ()), extra)

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("encoder", "generator", "codes"))
        codes = quantizer.init(keys["codes"])
        params = {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                  "generator": observed.init(keys["generator"], jnp.zeros((1, width)))}
        return params | ({"codes": codes.learned} if learned else {}), codes.moving

    def uniform(key, shape):
        """Codes, or numbers, for the generator."""
        return jax.random.randint(key, shape, 0, model.codes) if model.codes else jax.random.uniform(key, shape)

    def told(params, extra, batch, key):
        """Generated examples, what the encoder makes of them, and the losses L of both players."""
        state = state_of(params, extra)
        indices = collectives.draw(uniform, key, (batch["x"].shape[0], *latent), axis_name)
        z = quantizer.lookup(indices, state)
        x = generate(params, z)
        numbers, value = read(params, x)
        found = quantizer.quantize(numbers, state, key, True)
        error = jnp.mean((found.z_q - z) ** 2, -1)
        metrics = {"latent": error} | found.metrics
        if model.codes:
            metrics["recovered"] = (found.indices == indices).reshape(x.shape[0], -1).mean(-1)
        return x, value, model.latent_weight * error + found.loss, metrics

    def critic_loss(params, extra, batch, key, train: bool) -> Objective:
        code_key, between_key = jax.random.split(key)
        x, fake, loss, metrics = told(params, extra, batch, code_key)
        real = read(params, batch["x"])[1]
        penalty = gradient_penalty(lambda x: read(params, x)[1], batch["x"], x, between_key, axis_name)
        loss = loss + model.value_weight * (fake - real) + model.gradient_weight * penalty
        return Objective(loss, {"distance": real - fake, "gradient_penalty": penalty, "latent": metrics["latent"]},
                         extra)

    def generator_loss(params, extra, batch, key, train: bool) -> Objective:
        _, value, loss, metrics = told(params, extra, batch, key)
        if not train:
            z = quantizer.quantize(read(params, batch["x"])[0], state_of(params, extra), key, False).z_q
            metrics["mse"] = mse(batch["x"], generate(params, z))
        return Objective(loss - model.value_weight * value, metrics, extra)

    def encode(now, x):
        return quantizer.quantize(read(now.params, x)[0], state_of(*now), jax.random.key(0), False).indices

    def decode(now, indices, key=None):
        return generate(now.params, quantizer.lookup(indices, state_of(*now)))

    def reconstruct(now, x, key=None):
        return decode(now, encode(now, x))

    def sample(now, key, n: int):
        return decode(now, uniform(key, (n, *latent)))

    def figures(state: State, batch, key):
        now = variables(state)
        indices, line = encode(now, batch["x"]), jnp.arange(model.codes) if model.codes else jnp.linspace(0.0, 1.0, 8)
        return (draw.comparison(batch["x"], decode(now, indices)) | draw.samples(sample(now, key, 64))
                | draw.code_lines(lambda codes: decode(now, codes), indices[0], line))

    tx = optim.optimizer(config.optim, config.steps)
    moved = ("generator", "codes") if learned else ("generator",)
    team = [Player("critic", critic_loss, tx, ("encoder",), model.critic_updates),
            Player("", generator_loss, tx, moved)]
    return players(init, team, average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name,
                   encode=encode, decode=decode, reconstruct=reconstruct, sample=sample, figures=figures,
                   latent=Latent(latent, model.codes, codebook_axis=0 if latent and model.codes else None))


def _numbers(width: int) -> Quantizer:
    """No quantizer: what a latent is, is what the generator takes."""
    def quantize(z, state, key, train):
        z = z if width > 1 else z[..., 0]
        return Quantized(lookup(z, state), z, jnp.zeros(z.shape[0]), state)

    def lookup(numbers, state):
        return numbers if width > 1 else numbers[..., None]

    return Quantizer(width=width, codes=0, places=width, init=lambda key: Codes(), quantize=quantize, lookup=lookup)


__all__ = ["build", "defaults"]
