"""A prior fitted to the latents of a trained autoencoder."""

import math

import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import optim
from jaxae.systems.base import Latent, Objective, System, variables
from jaxae.systems.builders import closed_form, one_loss
from jaxae.systems.latent import priors_by_name as named


def defaults() -> ConfigDict:
    """Keys of `config.model`: those of `priors_by_name.defaults`."""
    return ConfigDict(named.defaults())


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """-log p(z) in nats per example, summed over the latent's dimensions, on latents `x` [n ...].

    What is trained by gradient sees vectors in units of the training set's mean and standard deviation of each channel
    (`prepare` takes them); a Gaussian mixture is fitted by EM before the first step. `nll` is reported where the prior
    has a density, `nll_bound` where it has a bound, and the loss of training otherwise; `bits_per_code` of codes.

    Raises:
      ValueError: for a prior that does not fit the type or shape of the latents.
    """
    model, latent = config.model, example["x"]
    discrete, shape = jnp.issubdtype(latent.dtype, jnp.integer), latent.shape[1:]
    kind = named.kind_of(model, shape, discrete)
    if model.conditional and "label" not in example:
        raise ValueError("model.conditional needs labels, and the autoencoder's data have none")
    classes = model.classes if model.conditional else 0
    case = named.Case(model, shape, classes, axis_name, jnp.dtype(config.dtype))
    prior, bound = kind.build(case), kind.bound and kind.bound(case)
    scaled = not discrete and prior.fit is None
    prefix = case.prefix  # rows that are no part of the density
    codes, dims = (math.prod(shape[1:]) * (shape[0] - prefix) if discrete else 0), math.prod(shape)

    def label_of(batch):
        return batch["label"] if classes else None

    def init(key, batch):
        d = shape[-1:]
        extra = (jnp.zeros(d), jnp.zeros(d)) if scaled else ()
        return prior.init(key, batch["x"], label_of(batch)), extra

    def prepare(state, data, key):
        """Mean and log standard deviation of each channel: the extra state."""
        rows = data["x"].reshape(-1, shape[-1])
        return state._replace(extra=(rows.mean(0), jnp.log(jnp.maximum(rows.std(0), 1e-6))))

    def loss(params, extra, batch, key, train: bool):
        z, label, nats_of_scale = batch["x"], label_of(batch), 0.0
        if scaled:
            shift, log_std = extra
            z, nats_of_scale = (z - shift) * jnp.exp(-log_std), log_std.sum() * (dims // shape[-1])
        metrics = {}
        if prior.loss is not None and train:
            return Objective(prior.loss(params, z, label, key), metrics, extra)
        if prior.log_prob is not None:
            noise = key if train and (model.dropout or model.label_dropout and classes) else None
            value = metrics["nll"] = nats_of_scale - prior.log_prob(params, z, label, noise)
        elif bound is not None:
            value = metrics["nll_bound"] = bound.loss(params, z, label, key)
        else:
            value = prior.loss(params, z, label, key)
        if codes and metrics:
            metrics["bits_per_code"] = value / (math.log(2.0) * codes)
        return Objective(value, metrics, extra)

    def sample(now, key, n: int, label=None, given=None):
        begun = {} if given is None else dict(given=given)
        z = prior.sample(now.params, key, n, label, **named.sampling(kind, model), **begun)
        return now.extra[0] + jnp.exp(now.extra[1]) * z if scaled else z

    def figures(state, batch, key):
        if prefix:  # what is given and drawn beside what the data have for it
            now, z = variables(state), batch["x"][:64]
            return {"samples": sample(now, key, len(z), given=z[:, :prefix]), "reconstructions": z}
        count = 10 * classes if classes else 64  # ten of each class, or a square
        label = jnp.arange(count) % classes if classes else None
        return {"samples": sample(variables(state), key, count, label)}

    rest = dict(sample=sample, figures=figures, latent=Latent(shape, model.codes))
    if prior.fit is not None:
        return closed_form(init, lambda params, data, key: prior.fit(params, data["x"], key), loss,
                           axis_name=axis_name, **rest)
    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, prepare=prepare if scaled else None,
                    **rest)


__all__ = ["build", "defaults"]
