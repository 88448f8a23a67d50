"""The core of all autoencoders with one vector as latent: encoder, posterior, prior and observation model.

A system is this core with an objective: `latent_system(config, example, axis_name, objective)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim, priors
from jaxae.priors import Prior
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, State, System, variables
from jaxae.systems.builders import Player, players
from jaxae.systems.categorical import joint_posterior, joint_prior
from jaxae.systems.posteriors import Posterior, posterior
from jaxae.systems.vampprior import vampprior

PRIORS = {"normal": priors.standard_normal, "uniform": priors.uniform,
          "ring": lambda d: priors.ring(0.5), "disk": lambda d: priors.ring(0.0),
          "mixture": lambda d: priors.circle_of_gaussians(8, d), "sphere": priors.hypersphere}


def defaults(**changed) -> ConfigDict:
    """Keys of `config.model`, beside those of `networks.defaults`.

    `latent`: dimension of z. `posterior`: 'diagonal', 'full', 'mixture' of `components` diagonal Gaussians, 'planar'
    or 'iaf' (flows of `flow_layers`, `flow_features`), 'categorical' (one-hot latents of the sizes `categories`, in
    place of `latent`, by Gumbel-softmax of `temperature`; uniform a priori), or 'point' for a deterministic encoder.
    `prior`: 'normal', 'uniform' on [-1, 1]^d, 'ring' (radii 0.5 to 1), 'disk', 'mixture' (8 Gaussians on a circle),
    'sphere', or learned with the model: 'gaussian_mixture' of `clusters`, 'vampprior' with `pseudo_inputs`.
    `input_noise`: standard deviation of Gaussian noise on what the encoder sees in training.
    """
    keys = networks.defaults() | dict(network="mlp", latent=16, posterior="diagonal", components=4, flow_layers=4,
                                      flow_features=(64,), categories=(), temperature=0.67, prior="normal",
                                      pseudo_inputs=100, clusters=10, input_noise=0.0)
    return ConfigDict(keys | changed)


class LatentModel(NamedTuple):
    """The pieces, as functions of `params`, a dict with 'encoder', 'decoder' and, where they have any, 'posterior'
    and 'prior'."""

    shape: tuple[int, ...]  # of one example
    size: int  # of its latent
    init: Callable[..., PyTree]  # (key, x) -> params
    encode: Callable[..., Array]  # (params, x, key=None) -> out [n outputs], what `posterior` reads; noisy by a key
    posterior: Posterior
    observed: networks.Observation
    log_prior: Callable[..., Array]  # (params, z) -> [n] nats
    sample_prior: Callable[..., Array]  # (params, key, n) -> z [n d]; under pmap, n of this replica
    closed_kl: bool  # the posterior knows its KL to the prior

    def at(self, params: PyTree) -> Posterior:
        """The posterior with its own parameters, if it has any."""
        return self.posterior.bind(params["posterior"]) if self.posterior.bind else self.posterior


class Terms(NamedTuple):
    """What one pass of a batch through the model gives its objective."""

    model: LatentModel
    params: PyTree
    x: Array  # [n ...]
    out: Array  # [n outputs], the encoder's
    z: Array  # [n d], one draw from the posterior
    log_px: Array  # [n] log p(x | z)
    kl: Array | None  # [n] KL(q(z | x) || p(z)): in closed form, or log q(z) - log p(z); None for a point
    step: Array  # [] updates before this one
    key: Array  # for the objective's own noise
    axis_name: str | None
    train: bool

    @property
    def posterior(self) -> Posterior:
        """With its own parameters."""
        return self.model.at(self.params)

    def prior_draws(self, count: int = 0) -> Array:
        """As many draws from the prior as there are examples, or `count`: [n d]."""
        return self.model.sample_prior(self.params, self.key, count or self.z.shape[0])

    def x_hat(self, z: Array) -> Array:
        """The decoder's mean, with what noise its training has."""
        observed = self.model.observed
        mean = observed.noisy_mean if self.train and observed.noisy_mean is not None else observed.mean
        return mean(self.params["decoder"], z, self.key)


# terms -> (loss [n] or [] whose mean is minimised, metrics {name: [n] or []})
ObjectiveOf = Callable[[Terms], tuple[Array, dict[str, Array]]]


def latent_model(config: ConfigDict, example: PyTree, axis_name: str | None = None,
                 family: Posterior | None = None, prior: Prior | None = None,
                 decoder: Callable[[int], Any] | None = None) -> LatentModel:
    """The model of `config.model`, with posteriors, a prior or a decoder (`channels -> module`) of a system's own.

    Raises:
      ValueError: for options that do not exist or do not fit the data or one another.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.latent < 1:
        raise ValueError(f"model.latent={model.latent} must be at least 1")
    if family is None and model.posterior == "categorical":
        sizes = tuple(model.categories)
        family, prior = joint_posterior(0, sizes, model.temperature), joint_prior(0, sizes)
    family = family or posterior(model.posterior, model.latent, model.components, model.flow_layers,
                                 tuple(model.flow_features))
    size = family.size
    if model.prior in ("ring", "disk") and size != 2:
        raise ValueError(f"model.prior={model.prior!r} is a distribution in the plane: set model.latent=2")
    if model.prior not in (*PRIORS, "gaussian_mixture", "vampprior"):
        raise ValueError(f"model.prior={model.prior!r} must be one of {', '.join(PRIORS)}, gaussian_mixture, vampprior")
    encoder = networks.vector_encoder(model, shape, family.outputs, dtype, axis_name)
    decoder = decoder or (lambda channels: networks.vector_decoder(model, shape, channels, dtype, axis_name))
    observed = networks.observation(model, shape, decoder, dtype, axis_name)

    def encode(params, x, key=None):
        if key is None:
            return encoder.apply({"params": params["encoder"]}, x).astype(jnp.float32)
        drop_key, noise_key = jax.random.split(key)
        if model.input_noise:
            x = x + model.input_noise * collectives.draw(jax.random.normal, noise_key, x.shape, axis_name)
        return encoder.apply({"params": params["encoder"]}, x, rngs={"dropout": drop_key}).astype(jnp.float32)

    # Categorical posteriors come with the prior that their closed form is of.
    closed_kl = family.kl is not None and (model.posterior == "categorical" if prior else model.prior == "normal")
    if prior is None and model.prior == "vampprior":
        prior = vampprior(model.pseudo_inputs, shape, family, encode)
    elif prior is None and model.prior == "gaussian_mixture":
        prior = of_params(priors.diagonal_mixture(model.clusters, size))
    elif prior is None:
        prior = PRIORS[model.prior](size)

    def init(key, x):
        keys = collectives.split_keys(key, ("encoder", "decoder", "prior", "posterior"))
        params = {"encoder": encoder.init(keys["encoder"], x)["params"],
                  "decoder": observed.init(keys["decoder"], jnp.zeros((1, size)))}
        if family.init is not None:
            params["posterior"] = family.init(keys["posterior"])
        learned = prior.init(keys["prior"], x)
        return params | ({"prior": learned} if jax.tree.leaves(learned) else {})

    def sample_prior(params, key, n):
        return collectives.draw(lambda key, shape: prior.sample(params, key, shape[0]), key, (n, size), axis_name)

    return LatentModel(shape, size, init, encode, family, observed, prior.log_prob, sample_prior,
                       closed_kl)


def of_params(prior: Prior) -> Prior:
    """A prior whose functions take the whole model's parameters and read their 'prior'."""
    return prior._replace(
        log_prob=lambda params, z, label=None, key=None: prior.log_prob(params["prior"], z, label, key),
        sample=lambda params, key, n, label=None: prior.sample(params["prior"], key, n, label))


def check_density(model: ConfigDict) -> None:
    """Raises ValueError for a deterministic encoder, which has no KL to the prior."""
    if model.posterior == "point":
        raise ValueError("this objective needs a posterior with a density: model.posterior='diagonal' or 'full'")


def pass_through(model: LatentModel, params: PyTree, x: Array, key: Array, step: Array, train: bool,
                 axis_name: str | None = None) -> Terms:
    """Encodes, draws and decodes a batch."""
    keys = collectives.split_keys(key, ("z", "objective", "noise", "encoder"))
    out = model.encode(params, x, keys["encoder"] if train else None)
    z, log_q = model.at(params).draw(out, keys["z"], axis_name)
    if train and model.observed.noisy_log_prob is not None:
        log_px = model.observed.noisy_log_prob(params["decoder"], z, x, keys["noise"])
    else:
        log_px = model.observed.log_prob(params["decoder"], z, x)
    kl = None
    if model.closed_kl:
        kl = model.posterior.kl(out)
    elif log_q is not None:
        kl = log_q - model.log_prior(params, z)
    return Terms(model, params, x, out, z, log_px, kl, step, keys["objective"], axis_name, train)


class Adversary(NamedTuple):
    """A second player: its own network, which the objective may read as `terms.params['adversary']`."""

    init: Callable[[Array], PyTree]  # key -> params
    loss: ObjectiveOf  # minimised by the adversary at fixed autoencoder
    learning_rate: float


def latent_system(config: ConfigDict, example: PyTree, axis_name: str | None, objective: ObjectiveOf, *,
                  model: LatentModel | None = None, adversary: Adversary | None = None) -> System:
    """The system that minimises `objective` over the parameters of the model, against an adversary if it has one.

    Metrics of every such system: `reconstruction` -log p(x | z) and `kl` in nats per example, and the
    errors of the decoder's mean at the posterior's mean: `mse` per dimension, or `token_accuracy` and `exact`.

    Args:
      config, example, axis_name: as of every `build`.
      objective: see `ObjectiveOf`.
      model: where it is not that of the config.
      adversary: the second player.
    """
    model = model or latent_model(config, example, axis_name)
    factorised = config.model.decoder == "factorised"

    def init(key, batch):
        params = model.init(key, batch["x"])
        if adversary is not None:
            params["adversary"] = adversary.init(jax.random.fold_in(key, 1))
        return params, jnp.zeros((), jnp.int32)  # extra counts the updates, for objectives with a schedule

    def loss(params, step, batch, key, train: bool) -> Objective:
        terms = pass_through(model, params, batch["x"], key, step, train, axis_name)
        value, metrics = objective(terms)
        usual: dict[str, Any] = {"reconstruction": -terms.log_px}
        if terms.kl is not None:
            usual["kl"] = terms.kl
        if not train and factorised:
            usual |= model.observed.errors(batch["x"], terms.x_hat(terms.posterior.mean(terms.out)))
        return Objective(value, usual | metrics, step)

    def adversarial_loss(params, step, batch, key, train: bool) -> Objective:
        value, metrics = adversary.loss(pass_through(model, params, batch["x"], key, step, train, axis_name))
        return Objective(value, metrics, step)

    # Each player's gradient is by what it owns alone. One player owns everything; beside an adversary the model's.
    names = tuple(jax.eval_shape(model.init, jax.random.key(0), example["x"]))
    team = [Player("", loss, optim.optimizer(config.optim, config.steps), () if adversary is None else names)]
    if adversary is not None:
        schedule = ConfigDict(dict(config.optim) | {"learning_rate": adversary.learning_rate})
        team.append(Player("adversary", adversarial_loss, optim.optimizer(schedule, config.steps), ("adversary",)))
    return players(init, team, average=config.optim.average, accumulate=config.optim.accumulate,
                   axis_name=axis_name, after=lambda params, step, key: (params, step + 1),
                   **functions(model, factorised))


def functions(model: LatentModel, factorised: bool = True) -> dict[str, Any]:
    """What a trained model does: the fields of `System` beside training."""
    size, shape = model.size, model.shape

    def encode(now, x, key=None):
        out, posterior = model.encode(now.params, x), model.at(now.params)
        return posterior.mean(out) if key is None else posterior.sample(out, key)

    def decode(now, z, key=None):
        return model.observed.mean(now.params["decoder"], z, jax.random.key(0) if key is None else key)

    def reconstruct(now, x, key=None):
        return decode(now, encode(now, x), key)

    def sample(now, key, n: int):
        latent_key, pixel_key = jax.random.split(key)
        write = model.observed.sample or model.observed.mean
        return write(now.params["decoder"], model.sample_prior(now.params, latent_key, n), pixel_key)

    def log_weights(now, key, x, k: int, axis_name=None):
        n = x.shape[0]
        # Each example k times, batch axis first, so that replicas cut the same noise that one device draws.
        out = jnp.repeat(model.encode(now.params, x), k, axis=0)  # [n*k outputs]
        z, log_q = model.at(now.params).draw(out, key, axis_name)
        log_px = model.observed.log_prob(now.params["decoder"], z, jnp.repeat(x, k, axis=0))
        log_w = log_px + model.log_prior(now.params, z) - log_q
        return log_w.reshape(n, k).T

    def figures(state: State, batch, key):
        now, keys = variables(state), collectives.split_keys(key, ("pixels", "samples"))
        out = model.encode(now.params, batch["x"])
        mean = model.at(now.params).mean(out)
        shown = draw.comparison(batch["x"], decode(now, mean, keys["pixels"]))
        shown |= draw.samples(sample(now, keys["samples"], 64))
        shown |= draw.interpolations(batch["x"], mean, lambda z: decode(now, z))
        information = mean.var(0)
        if model.posterior.kl_each is not None:
            information = shown["kl_of_latents"] = model.posterior.kl_each(out).mean(0)
        if len(shape) == 3 and factorised:
            shown["traversals"] = traversals(now, mean, information)
        if size == 2:
            shown["latents"] = mean
            if "label" in batch:
                shown["latents_labels"] = batch["label"]
        return shown

    def traversals(now, mean, information, steps: int = 11):
        """Decoded lines through 3 standard deviations of the codes along the most informative latents, around the
        first example: [k n h w c]."""
        chosen = jax.lax.top_k(information, min(8, size))[1]
        line = jnp.linspace(-3.0, 3.0, steps)
        points = jnp.broadcast_to(mean[0], (chosen.size, steps, size))
        points = jax.vmap(lambda rows, i: rows.at[:, i].set(line))(points, chosen)
        return jnp.clip(decode(now, points.reshape(-1, size)).reshape(chosen.size, steps, *shape), 0.0, 1.0)

    weighted = {"log_weights": log_weights} if model.posterior.has_density else {}
    return dict(encode=encode, decode=decode, reconstruct=reconstruct, sample=sample, figures=figures,
                latent=Latent((size,))) | weighted
