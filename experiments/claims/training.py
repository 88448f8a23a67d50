"""Training for claims: the members of a config in memory."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxae import data, metrics, systems
from jaxae.systems.base import System, Variables, variables
from jaxae.train import ensemble, fit
from jaxae.train.config import base
from jaxae.train.setup import example_of


class Trained(NamedTuple):
    """Members trained side by side."""

    system: System  # of one member
    members: list[Variables]
    history: list[dict[str, Any]]
    test: dict[str, np.ndarray]  # metrics on the test split, [members] each


def config_of(module, steps: int, *, seeds: int = 1, batch_size: int = 100, sweep=(), rate: float = 1e-3,
              **model) -> ConfigDict:
    """A config of the system in `module`: its defaults with keys of `config.model` changed."""
    config = base()
    config.system = module.__name__.removeprefix("jaxae.systems.")
    config.model = module.defaults()
    config.model.update(model)
    config.update(dict(steps=steps, batch_size=batch_size, ensemble=seeds, sweep=sweep))
    config.optim.learning_rate = rate
    return config


def trained(config: ConfigDict, dataset: "data.Dataset", prepare_every: int = 0) -> Trained:
    """Trains all members of a config by `fit`; what is prepared sees the whole training set."""
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, config.batch_size), jax.random.key(0))
    build = partial(systems.build, example=example)
    count = ensemble.size(config)
    keys = jax.vmap(jax.random.key)(jnp.asarray(ensemble.seeds(config), jnp.uint32))
    if count == 1:
        system, key = build(config), keys[0]
    else:
        system, key = ensemble.ensemble(build, config), keys
    state, history = fit(system, dataset, config.steps, key, batch_size=config.batch_size,
                         prepare_every=prepare_every, prepare_examples=0)
    members = [variables(ensemble.select(state, i) if count > 1 else state) for i in range(count)]
    test = {name.removeprefix("test/"): np.atleast_1d(value) for name, value in history[-1].items()
            if name.startswith("test/")}
    return Trained(build(config), members, history, test)


def finetuned(config: ConfigDict, dataset: "data.Dataset", params: dict, seed: int = 0) -> Trained:
    """One more training run of one member, which starts from these entries of the parameters, with a fresh
    optimizer."""
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, config.batch_size), jax.random.key(0))
    system = systems.build(config, example=example)

    def init(key, batch):
        fresh = system.init(key, batch)
        return fresh._replace(params=fresh.params | params)

    state, history = fit(system._replace(init=init, prepare=None), dataset, config.steps, jax.random.key(seed),
                         batch_size=config.batch_size)
    test = {name.removeprefix("test/"): np.atleast_1d(value) for name, value in history[-1].items()}
    return Trained(system, [variables(state)], history, test)


def batches(source, dataset: "data.Dataset", size: int = 500):
    """Evaluation batches of a split as a system sees them, each under a key of its own."""
    for i, start in enumerate(range(0, len(source), size)):
        rows = source[np.arange(start, min(start + size, len(source)))]
        yield dataset.test_transform(rows, jax.random.fold_in(jax.random.key(0), i))


def over(function, source, dataset: "data.Dataset", size: int = 500) -> np.ndarray:
    """`function(batch)` over a split, concatenated."""
    run = jax.jit(function)
    return np.concatenate([np.asarray(run(batch)) for batch in batches(source, dataset, size)])


def nll(run: Trained, member: Variables, dataset: "data.Dataset", samples: int) -> float:
    """Mean -log p(x) of the test split in nats, by importance samples from the model's posterior."""
    def estimate(batch):
        def log_w(key, x, k):
            return run.system.log_weights(member, key, x, k)

        return metrics.importance_sampled_nll(log_w, jax.random.key(1), batch["x"], samples, 50)

    return float(over(estimate, dataset.test, dataset).mean())


def digits(binarize: str = "none", size: int = 14) -> "data.Dataset":
    """The embedded digits."""
    return data.load(dict(source="digits", size=size, binarize=binarize))


def mean_sd(values) -> str:
    """Mean and standard deviation over seeds."""
    values = np.asarray(values, float)
    return f"{values.mean():.4g} +- {values.std(ddof=1) if len(values) > 1 else 0.0:.2g}"
