"""Activations of a run: what is stored is what its modules computed, with gradients in closed form."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from claims.training import config_of, trained  # noqa: E402

from configs import vae  # noqa: E402
from jaxae import systems  # noqa: E402
from jaxae.data import DataError, load  # noqa: E402
from jaxae.nn.capture import capture  # noqa: E402
from jaxae.systems.sparse import dictionary  # noqa: E402
from jaxae.train.activations import activations_of, layers_of, store_activations  # noqa: E402
from jaxae.train.setup import Run, example_of  # noqa: E402


class Twice(nn.Module):
    """A layer that is called twice."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name="layer")
        return layer(layer(x))


def test_capture_names_networks_in_the_order_of_their_calls_and_keeps_first_outputs():
    net, x = Twice(), jnp.arange(6.0).reshape(2, 3)
    a, b = (net.init(jax.random.key(i), x) for i in range(2))

    def both(x):
        return net.apply(b, net.apply(a, x))

    out, found = jax.jit(lambda x: capture(both, x))(x)
    assert sorted(found) == ["Twice", "Twice.2", "Twice.2/layer", "Twice/layer"]
    kernel, bias = (a["params"]["layer"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(found["Twice/layer"], x @ kernel + bias, rtol=1e-5)
    np.testing.assert_allclose(found["Twice.2"], both(x), rtol=1e-5)
    np.testing.assert_array_equal(out, found["Twice.2"])
    # What is added is added once, and what comes after sees it.
    moved = capture(both, x, added={"Twice": jnp.ones((2, 3))})[0]
    np.testing.assert_allclose(moved, net.apply(b, net.apply(a, x) + 1), rtol=1e-5)
    with pytest.raises(ValueError, match="no module called Once gives an array: there are Twice"):
        capture(both, x, names=["Once"])


def test_modules_inside_a_scan_are_left_out_of_the_list(run):
    net = nn.Dense(1)
    params = net.init(jax.random.key(0), jnp.ones((1, 1)))

    def looped(now, x):
        return jax.lax.map(lambda row: net.apply(params, row), net.apply(params, x))

    changed = run._replace(system=run.system._replace(encode=None, reconstruct=looped))
    assert layers_of(changed) == {"input": (4, 4, 1), "Dense": (4, 4, 1)}


@pytest.fixture(scope="module")
def run():
    config = vae.get_config("tiny")
    config.model.update(dict(network="mlp", features=(12,), latent=4))
    config.data.update(dict(size=4, binarize="none"))
    data = load(config.data)
    example = jax.eval_shape(data.test_transform, example_of(data, 8), jax.random.key(0))
    system = systems.build(config, example)
    batch = data.test_transform(data.train[np.arange(8)], jax.random.key(0))
    return Run(config, data, None, system, jax.jit(system.init)(jax.random.key(0), batch), 0)


def _x(run, split="train"):
    source = getattr(run.dataset, split)
    return run.dataset.test_transform(source[np.arange(len(source))], jax.random.key(0))["x"]


def test_a_store_holds_the_latents_in_the_order_of_the_data_and_a_sparse_autoencoder_trains_on_it(run, tmp_path):
    found = store_activations(run, ["latent"], tmp_path, dtype="float32", batch_size=10, shard_rows=30)
    assert [found[split]["rows"] for split in ("train", "test")] == [64, 16]
    data = load(dict(source=f"activations:{tmp_path}"))
    for split in ("train", "test"):
        z = run.system.encode(run.members()[0], _x(run, split))
        rows = getattr(data, split)[np.arange(len(z))]
        np.testing.assert_allclose(rows["x"], z, atol=1e-5)
        labels = getattr(run.dataset, split)[np.arange(len(z))]["label"]
        np.testing.assert_array_equal(rows["label"], labels)
    config = config_of(dictionary, 2, batch_size=8, atoms=6, k=2, aux_atoms=2)
    assert 0 < trained(config, data).test["fvu"]
    with pytest.raises(DataError, match="holds activations of .*latent.* choose another --output"):
        store_activations(run, ["input"], tmp_path)


def test_pairs_are_input_and_output_of_what_lies_between_and_gradients_are_those_of_the_error(run, tmp_path):
    layers = layers_of(run)
    hidden = next(name for name, shape in layers.items() if shape == (12,))
    assert layers["input"] == (4, 4, 1) and layers["latent"] == (4,)
    found = activations_of(run, ["input", hidden], by_example=True)(run.dataset.train[np.arange(5)])
    model, x = run.members()[0], _x(run)[:5]
    encoder = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model.params["encoder"])
               if leaf.shape in ((16, 12), (12,))]
    bias, kernel = sorted(encoder, key=lambda leaf: leaf.ndim)
    np.testing.assert_allclose(found["x"], x.reshape(5, 16), atol=1e-6)
    np.testing.assert_allclose(found["y"], x.reshape(5, 16) @ kernel + bias, atol=1e-5)
    # The decoder's outputs are logits l with x_hat = sigmoid(l): the gradient of |x - x_hat|^2 by them is known.
    last = [name for name, shape in layers.items() if shape == (4, 4, 1) and name != "input"][-1]
    x_hat = run.system.reconstruct(model, x)
    found = activations_of(run, [last], gradient=True)(run.dataset.train[np.arange(5)])
    np.testing.assert_allclose(found["x"], jnp.log(x_hat / (1 - x_hat)).reshape(-1, 1), atol=1e-4)
    np.testing.assert_allclose(found["gradient"], (-2 * (x - x_hat) * x_hat * (1 - x_hat)).reshape(-1, 1), atol=1e-5)
    assert len(found["label"]) == 5 * 16
    z = run.system.encode(model, x)
    by_latent = jax.grad(lambda z: jnp.square(x - run.system.decode(model, z)).sum())(z)
    found = activations_of(run, ["latent"], gradient=True)(run.dataset.train[np.arange(5)])
    np.testing.assert_allclose(found["gradient"], by_latent, atol=1e-5)


@pytest.mark.parametrize("layers, options, message", [
    (["latnt"], {}, r"no layer 'latnt' \(did you mean latent\?\); there are: input, latent"),
    (["input", "latent"], {}, "of different positions: take all of an example as one row"),
    (["input", "latent", "input"], {}, "one layer, or two for pairs"),
    (["input"], {"gradient": True}, "after the input"),
])
def test_layers_that_do_not_fit_get_one_clear_error(run, layers, options, message):
    with pytest.raises(ValueError, match=message):
        activations_of(run, layers, **options)
