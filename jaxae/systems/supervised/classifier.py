"""An image classifier trained on labels, for features of metrics."""

import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import optim
from jaxae.nn import ConvClassifier
from jaxae.systems.base import Latent, Objective, System
from jaxae.systems.builders import one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`: `classes`, the convolutions' `channels` and the width of `features`."""
    return ConfigDict(dict(classes=10, channels=(32, 64), features=64))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """Cross-entropy in nats per example on `label`; `encode` gives the features [n d].

    Raises:
      ValueError: where the data have no labels.
    """
    model = config.model
    if "label" not in example:
        raise ValueError("a classifier needs data with labels")
    net = ConvClassifier(model.classes, tuple(model.channels), model.features, jnp.dtype(config.dtype))

    def init(key, batch):
        return net.init(key, batch["x"])["params"], ()

    def loss(params, extra, batch, key, train: bool):
        logits = net.apply({"params": params}, batch["x"]).logits
        nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return Objective(nats, {"accuracy": jnp.float32(logits.argmax(-1) == batch["label"])}, extra)

    def encode(model_variables, x):
        return net.apply({"params": model_variables.params}, x).features

    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, encode=encode,
                    latent=Latent((model.features,)))
