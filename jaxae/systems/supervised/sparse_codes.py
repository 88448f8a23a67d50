"""Classes read linearly from the codes of a sparse dictionary, which is fine-tuned by them or stays as it was."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import optim
from jaxae.systems.base import Latent, Objective, System, Variables
from jaxae.systems.builders import one_loss
from jaxae.systems.sparse import dictionary


def defaults() -> ConfigDict:
    """Keys of `config.model`: those of `jaxae.systems.sparse.dictionary` that say what its codes are, `classes`, and
    `frozen` for a dictionary that is not fine-tuned."""
    model = dictionary.defaults()
    model.update(dict(classes=10, frozen=False))
    return model


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    r"""Cross-entropy in nats per example on `label` of the logits z V + c, z the codes that the dictionary has outside
    training (`k_test` of them, which the paper raises for fine-tuning).

    The dictionary's parameters have the names that a run of `configs/sae.py` gives them, so that
    `config.init_from=WORKDIR` with `config.init_parts` takes them over. Reported: `accuracy`. `encode` gives z.

    Raises:
      ValueError: where the data have no labels, and as `jaxae.systems.sparse.dictionary`.

    Reference: Makhzani and Frey, k-sparse autoencoders, ICLR 2014, arXiv 1312.5663, section 3.2.
    """
    model = config.model
    if "label" not in example:
        raise ValueError("codes are read into classes: use data with labels")
    features = dictionary.build(config, {name: value for name, value in example.items() if name != "label"}, axis_name)

    def init(key: Array, batch):
        start = features.init(key, {name: value for name, value in batch.items() if name != "label"})
        readout = {"kernel": jnp.zeros((model.atoms, model.classes)), "bias": jnp.zeros((model.classes,))}
        return start.params | {"readout": readout}, start.extra

    def codes(params, extra, x):
        own = {name: value for name, value in params.items() if name != "readout"}
        return features.encode(Variables(jax.lax.stop_gradient(own) if model.frozen else own, extra), x)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        logits = codes(params, extra, batch["x"]) @ params["readout"]["kernel"] + params["readout"]["bias"]
        nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return Objective(nats, {"accuracy": jnp.float32(logits.argmax(-1) == batch["label"])}, extra)

    def encode(now: Variables, x):
        return codes(now.params, now.extra, x)

    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, encode=encode,
                    latent=Latent((model.atoms,)))


__all__ = ["build", "defaults"]
