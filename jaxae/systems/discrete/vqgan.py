"""VQGAN: autoencoders of images by codes, whose reconstructions features judge and a discriminator of patches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.systems import networks
from jaxae.systems.base import Objective, State, System, Variables
from jaxae.systems.builders import Player, players
from jaxae.systems.discrete import vq_vae
from jaxae.systems.image_error import defaults as error_defaults
from jaxae.systems.image_error import image_error
from jaxae.systems.patch_critic import defaults as critic_defaults
from jaxae.systems.patch_critic import patch_critic


def defaults() -> ConfigDict:
    """Keys of `config.model`: those of `vq_vae.defaults` (networks and quantizers; `likelihood`, `decoder`, `positions`
    and those of waveforms stay as they are here), of `image_error.defaults` and of `patch_critic.defaults`.
    """
    return ConfigDict(dict(vq_vae.defaults()) | error_defaults() | critic_defaults() | dict(
        network="taming", error="l1", perceptual=1.0, gan=0.8))


class Extra(NamedTuple):
    """State that no gradient moves."""

    codes: PyTree  # the quantizer's
    step: Array  # [] updates so far


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Esser, Rombach and Ommer, Taming transformers for high-resolution image synthesis, 2021, arXiv
    2012.09841, with any quantizer of `jaxae.quantizers`.

    Loss per example: error_weight mean |x - x_hat| (or its square) + perceptual * distance of the feature maps of x and
    x_hat + the quantizer's losses + weight * -D(x_hat). D is a discriminator of patches with the hinge loss, and the
    weight is `gan` times the ratio of the gradients of the first two terms and of -D in the decoder's last kernel; both
    begin at update `gan_start`. Images here are in [0, 1]: published weights, of images in [-1, 1], are those of
    error_weight=2 for 'l1' and 4 for 'mse'.

    Latents are integers, maps [n h w], with a last axis of q where a vector has q codes. Evaluation leaves out the
    adversarial term.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.likelihood != "mse" or model.decoder != "factorised" or model.positions or model.spectral or model.largest:
        raise ValueError("a VQGAN measures images by model.error and has maps of codes: leave model.likelihood='mse', "
                         "model.decoder='factorised', and 0 for model.positions, model.spectral and model.largest, or "
                         "use system='discrete.vq_vae'")
    parts, last = vq_vae.parts_of(config, example, axis_name), networks.last_layer(model)
    error, critic = image_error(model, shape), patch_critic(config, shape, dtype, axis_name)

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("parts", "critic"))
        params, codes = parts.init(keys["parts"], batch)
        if model.gan:
            params["critic"] = critic.init(keys["critic"])
        return params, Extra(codes, jnp.zeros((), jnp.int32))

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x, decoder = batch["x"], params["decoder"]

        def error_of(z_q):
            if not (train and model.gan):
                return error(x, parts.image(decoder, z_q))
            x_hat, pull = jax.vjp(lambda kernel: parts.image(decoder | {last: decoder[last] | {"kernel": kernel}}, z_q),
                                  decoder[last]["kernel"])
            value, metrics = error(x, x_hat)
            deception, told = critic.deceiving(params["critic"], x_hat, pull, lambda y: error(x, y)[0], extra.step)
            return value + deception, metrics | told

        found = parts.loss(params, extra.codes, batch, key, train, error_of)
        return found._replace(extra=extra._replace(codes=found.extra))

    def discriminating(params, extra, batch, key, train: bool) -> Objective:
        x_hat = functions["reconstruct"](Variables(params, extra), batch["x"])
        return Objective(*critic.discriminating(params["critic"], batch["x"], x_hat, extra.step), extra)

    def prepare(state: State, data, key: Array) -> State:
        started = parts.functions["prepare"](inner(state), data, key)
        return started._replace(extra=state.extra._replace(codes=started.extra))

    def after(params, extra, key):
        codes = extra.codes
        if parts.functions["after"]:
            params, codes = parts.functions["after"](params, codes, key)
        return params, Extra(codes, extra.step + 1)

    def inner(state):
        """As the autoencoder without a discriminator knows it."""
        return state._replace(extra=state.extra.codes)

    def lifted(name):
        function = parts.functions[name]
        return function and (lambda state, *args, **options: function(inner(state), *args, **options))

    functions = parts.functions | {name: lifted(name) for name in (
        "encode", "decode", "reconstruct", "sample", "codebook", "figures")} | {
            "after": after, "prepare": prepare if parts.functions["prepare"] else None}
    tx = optim.optimizer(config.optim, config.steps)
    names = [*jax.eval_shape(lambda key: init(key, {"x": jnp.zeros((1, *shape))})[0], jax.random.key(0))]
    team = [Player("", loss, tx, tuple(name for name in names if name != "critic"))]
    if model.gan:
        team.append(critic.player(discriminating))
    return players(init, team, average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name,
                   **functions)


__all__ = ["Extra", "build", "defaults"]
