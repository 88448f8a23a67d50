"""A prior fitted to the latents of a trained autoencoder."""

import math

import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import optim, priors
from jaxae.systems.base import Latent, Objective, System, variables
from jaxae.systems.builders import closed_form, one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`.

    `prior`: 'auto' takes 'autoregressive' for code maps and 'gaussian_mixture' for vectors; for those 'flow' and
    'autoregressive' (a masked network with mixtures of `components` Gaussians) are there too. `codes` and `classes` are
    filled in from the autoencoder and its data; `conditional` makes an autoregressive prior class-conditional.
    """
    return ConfigDict(dict(prior="auto", codes=0, classes=0, conditional=False, hidden=64, layers=5, dropout=0.0,
                           embed=32, components=10, covariance="full"))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """-log p(z) in nats per example, summed over the latent's dimensions, on latents `x` [n ...].

    An autoregressive prior and a flow are trained by gradient, on vectors in units of the training set's mean and
    standard deviation (`prepare` takes them); a Gaussian mixture is fitted by EM before the first step.

    Raises:
      ValueError: for a prior that does not fit the type of the latents.
    """
    model, latent = config.model, example["x"]
    discrete = jnp.issubdtype(latent.dtype, jnp.integer)
    kind = {"auto": "autoregressive" if discrete else "gaussian_mixture"}.get(model.prior, model.prior)
    classes = model.classes if model.conditional else 0
    if model.conditional and "label" not in example:
        raise ValueError("model.conditional needs labels, and the autoencoder's data have none")
    if kind == "autoregressive" and not discrete:
        if latent.ndim != 2:
            raise ValueError(f"latents [n {' '.join(map(str, latent.shape[1:]))}] are neither codes nor vectors [n d]")
        prior = priors.masked_autoregressive(latent.shape[1], model.components, (model.hidden,) * 2, classes)
    elif kind == "autoregressive":
        prior = priors.autoregressive(latent.shape[1:], model.codes, classes, hidden=model.hidden,
                                      layers=model.layers, embed=model.embed, dropout=model.dropout,
                                      axis_name=axis_name, dtype=jnp.dtype(config.dtype))
    elif kind in ("gaussian_mixture", "flow"):
        if discrete:
            raise ValueError("Gaussian mixtures and flows model real vectors; these latents are codes: use "
                             "model.prior='autoregressive'")
        if classes:
            raise ValueError("Gaussian mixtures and flows have no classes: set model.conditional=False")
        prior = (priors.gaussian_mixture(model.components, model.covariance) if kind == "gaussian_mixture"
                 else priors.flow(latent.shape[1], model.layers, (model.hidden, model.hidden)))
    else:
        raise ValueError(f"model.prior={model.prior!r} must be 'auto', 'autoregressive', 'gaussian_mixture' or 'flow'")

    def label_of(batch):
        return batch["label"] if classes else None

    # Mean and log standard deviation of vectors, set by `prepare`: the extra state of what is trained by gradient.
    scaled = not discrete and prior.fit is None

    def init(key, batch):
        d = batch["x"].shape[-1]
        return prior.init(key, batch["x"], label_of(batch)), (jnp.zeros(d), jnp.zeros(d)) if scaled else ()

    def prepare(state, data, key):
        std = jnp.maximum(data["x"].std(0), 1e-6)
        return state._replace(extra=(data["x"].mean(0), jnp.log(std)))

    positions = latent.size // latent.shape[0]

    def loss(params, extra, batch, key, train: bool):
        z, log_scale = batch["x"], 0.0
        if scaled:
            shift, log_std = extra
            z, log_scale = (z - shift) * jnp.exp(-log_std), log_std.sum()
        nats = log_scale - prior.log_prob(params, z, label_of(batch), key if train and model.dropout else None)
        unit = {"bits_per_code": nats / (math.log(2.0) * positions)} if discrete else {}
        return Objective(nats, {"nll": nats} | unit, extra)

    def sample(now, key, n: int, label=None):
        z = prior.sample(now.params, key, n, label)
        return now.extra[0] + jnp.exp(now.extra[1]) * z if scaled else z

    def figures(state, batch, key):
        count = 10 * classes if classes else 64  # ten of each class, or a square
        label = jnp.arange(count) % classes if classes else None
        return {"samples": sample(variables(state), key, count, label)}

    rest = dict(sample=sample, figures=figures, latent=Latent(latent.shape[1:], model.codes))
    if prior.fit is not None:
        return closed_form(init, lambda params, data, key: prior.fit(params, data["x"], key), loss,
                           axis_name=axis_name, **rest)
    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, prepare=prepare if scaled else None,
                    **rest)

