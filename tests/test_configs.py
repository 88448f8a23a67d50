"""Every variant of every config trains two steps; paper scales build with the paper's shapes."""

import functools
import importlib.util
import inspect
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import data, optim, systems
from jaxae.train import train
from jaxae.train.config import ConfigError, check
from jaxae.train.setup import example_of, open_data

CONFIGS = Path(__file__).parent.parent / "configs"


def get_config(name: str, arg: str = ""):
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    config.mesh.data = 1  # compiling for one device is quicker; test_parallel.py holds eight to it
    return config


def variants(name: str) -> list[str]:
    """The names of the config's variants, from its own error message."""
    with pytest.raises(ConfigError) as error:
        get_config(name, "no such variant")
    return re.search(r"(?:among|are) (.*)", str(error.value)).group(1).split(", ")


CONFIG_NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "prior")  # that needs another's run
# Paper scales take accelerators: they are held to their shapes, below.
CASES = [(name, arg) for name in CONFIG_NAMES for arg in variants(name) if "paper" not in arg and arg != "tiny"]


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_config_trains_and_draws(name, tmp_path):
    config = get_config(name, "tiny")
    results = train(config, tmp_path)
    assert results["finished"] and results["step"] == 2
    assert all(np.isfinite(value) for value in results["metrics"].values())
    figures = {path.name for path in (tmp_path / "figures").glob("*.png")}
    expected = {"curves.png"} if not config.figures_every else {
        "curves.png", "reconstructions_000000.png", "reconstructions_000002.png"}
    assert expected <= figures
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["system"] == config.system


def updates_and_measures(config, dataset):
    """The update and the measurement, compiled as one program; figures by their shapes."""
    rows = dataset.train[np.arange(64)]
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, config.batch_size), jax.random.key(0))
    system = systems.build(config, example)

    @jax.jit
    def run(key, rows):
        batch = dataset.transform({name: value[:config.batch_size] for name, value in rows.items()}, key)
        state = system.init(key, batch)
        state = system.prepare(state, dataset.test_transform(rows, key), key) if system.prepare else state
        moved, metrics = system.step(state, batch, key)
        return moved, metrics, system.summary(system.evaluate(moved, batch, key))

    state, metrics, report = run(jax.random.key(0), rows)
    jax.tree.map(lambda x: np.testing.assert_array_equal(np.isfinite(x), True), (state.params, metrics, report))
    assert int(state.step) == 1 and {"loss", "gradient_norm"} <= set(metrics) and "loss" in report
    assert not config.figures_every or jax.eval_shape(system.figures, state, example, jax.random.key(0))


@pytest.mark.parametrize("name, arg", CASES)
def test_variant_updates_and_measures(name, arg):
    config = get_config(name, f"{arg},tiny")
    check(config)
    updates_and_measures(config, data.load(config.data))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """The workdir of a run of a config, trained once."""
    @functools.cache
    def workdir(name, arg=""):
        path = tmp_path_factory.mktemp("autoencoder")
        train(get_config(name, ",".join(filter(None, [arg, "tiny"]))), path)
        return str(path)

    return workdir


@pytest.mark.parametrize("name, arg", [("vq", "conditional"), ("vae", "")])
def test_prior_on_the_latents_of_a_run(name, arg, autoencoder, tmp_path):
    config = get_config("prior", ",".join(filter(None, [arg, "tiny"])))
    config.autoencoder = autoencoder(name)
    results = train(config, tmp_path)
    assert np.isfinite(results["metrics"]["nll"])
    assert (tmp_path / "figures" / "samples_000002.png").exists() or config.steps == 1


@pytest.mark.parametrize("name, variant, arg", [
    ("vq", "", "transformer,conditional"), ("vq", "", "linear"), ("vq", "", "axial"), ("vq", "", "masked,conditional"),
    ("vq", "", "coarse"), ("vq", "product", "transformer"), ("vq", "multi_scale", "next_scale,conditional"),
    ("vae", "", "flow"), ("vae", "", "autoregressive,conditional"), ("vae", "", "diffusion,conditional"),
    ("vae", "", "flow_matching")])
def test_prior_by_name_updates_and_measures(name, variant, arg, autoencoder):
    config = get_config("prior", f"{arg},tiny")
    config.autoencoder = autoencoder(name, variant)
    config, dataset, _ = open_data(config)
    updates_and_measures(config, dataset)


@pytest.mark.parametrize("name, arg, message", [
    ("vq", "flow", "is not for codes"), ("vae", "transformer", "is not for real vectors"),
    ("vq", "next_scale", "configs/vq.py:multi_scale"), ("vae", "flow,conditional", "has no classes")])
def test_a_prior_that_does_not_fit_says_so(name, arg, message, autoencoder):
    config = get_config("prior", f"{arg},tiny")
    config.autoencoder = autoencoder(name)
    config, dataset, _ = open_data(config)
    with pytest.raises(ValueError, match=message):
        updates_and_measures(config, dataset)


def test_a_prior_without_an_autoencoder_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match="config.autoencoder=WORKDIR"):
        train(get_config("prior", "tiny"), tmp_path)


def test_paper_scale_vq_vae_has_the_papers_shapes():
    config = get_config("vq", "paper")
    check(config)
    batch = {"x": jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.float32)}
    system = systems.build(config, batch)
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert system.latent.shape == (8, 8) and system.latent.codes == 512
    assert state.params["codes"].shape == (512, config.model.width)
    kernels = [leaf.shape for leaf in jax.tree.leaves(state.params["encoder"]) if leaf.ndim == 4]
    assert (4, 4, 3, 256) in kernels and (4, 4, 256, 256) in kernels  # two strided convolutions
    assert kernels.count((3, 3, 256, 256)) == 2 and (1, 1, 256, 256) in kernels  # two residual blocks
    assert (config.steps, config.batch_size, config.optim.learning_rate) == (250_000, 128, 2e-4)


def sizes_at_paper_scale(name, arg="paper", shape=(28, 28, 1)):
    config = get_config(name, arg)
    check(config)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.float32)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    return config, {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}


def dense(*widths):
    return sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))


def test_paper_scale_iwae_is_784_200_200_50_with_50_samples():
    config, sizes = sizes_at_paper_scale("iwae")
    assert sizes == {"encoder": dense(784, 200, 200, 100), "decoder": dense(50, 200, 200, 784)}
    assert (config.model.samples, config.batch_size, config.optim.eps) == (50, 20, 1e-4)


def test_paper_scale_iwae_of_two_layers_and_its_steps_of_the_rate():
    config, sizes = sizes_at_paper_scale("iwae", "two_layers,paper")
    assert sizes == {"encoder": dense(784, 200, 200, 200), "upper": dense(100, 100, 100, 100),
                     "lower": dense(50, 100, 100, 200), "decoder": dense(100, 200, 200, 784)}
    rate = optim.schedule(config.optim, config.steps)
    for i in range(8):  # 3^i passes of 3,000 steps at 1e-3 * 10^(-i/7)
        first, last = (3**i - 1) // 2 * 3000, (3 ** (i + 1) - 1) // 2 * 3000 - 1
        np.testing.assert_allclose([rate(first + 1), rate(last)], 1e-3 * 10 ** (-i / 7), rtol=1e-5)
    assert config.steps == last + 1
    assert get_config("iwae", "paper_omniglot").steps == 3280 * 1217


def test_paper_scale_wae_has_the_papers_convolutions():
    config, sizes = sizes_at_paper_scale("wae")
    channels = (1, 128, 256, 512, 1024)
    convolutions = sum((16 * a + 1) * b + 2 * b for a, b in zip(channels, channels[1:], strict=False))  # and norms
    assert sizes["encoder"] == convolutions + dense(1024, 8)
    assert (config.model.latent, config.model.weight, config.batch_size) == (8, 10.0, 100)


@pytest.mark.parametrize("arg, shape, examples", [("paper", (32, 32, 1), 60_000),
                                                  ("paper_celeba", (64, 64, 3), 162_770)])
def test_paper_scale_coupled_vae_solves_anew_each_epoch_from_a_map_of_4x4(arg, shape, examples):
    config, sizes = sizes_at_paper_scale("coupled", arg, shape)
    assert set(sizes) == {"decoder"}  # no encoder: the plan takes its place
    last = config.model.channels[-1]
    assert sizes["decoder"] > dense(config.model.latent, 4 * 4 * last)
    epoch = examples // config.batch_size
    assert (config.prepare_every, config.steps) == (epoch, 100 * epoch)
    assert config.model.ascent_rate * examples == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_configs_say_how_to_run_them_and_hold_no_none(path):
    config = get_config(path.stem)
    text = path.read_text()
    assert f"python experiments/run.py --config=configs/{path.stem}.py" in text
    assert "arXiv" in text or path.stem == "classifier"
    assert None not in [value for _, value in _leaves(config)]
    assert inspect.cleandoc(text.split('"""')[1])


def _leaves(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
