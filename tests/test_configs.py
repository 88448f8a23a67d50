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
from jaxae.systems.discrete import semantic_vq
from jaxae.train import train
from jaxae.train.config import ConfigError, check
from jaxae.train.setup import example_of, open_data, open_run

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
    drawn = "samples" if config.system.startswith("autoregressive.") else "reconstructions"
    expected = {"curves.png"} if not config.figures_every else {
        "curves.png", f"{drawn}_000000.png", f"{drawn}_000002.png"}
    assert expected <= figures
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["system"] == config.system


def test_what_init_from_gives_survives_the_preparation(tmp_path):
    config = get_config("sae", "tiny")  # whose preparation sets the offset and the encoder's scale
    train(config, tmp_path / "first")
    config.update(dict(init_from=str(tmp_path / "first"), steps=1))
    config.optim.update(dict(learning_rate=0.0))
    train(config, tmp_path / "second")
    first, second = (open_run(tmp_path / name).state for name in ("first", "second"))
    for name in first.params:
        np.testing.assert_allclose(second.params[name], first.params[name], rtol=1e-5, atol=1e-7)
    assert float(second.extra.variance) == float(first.extra.variance) != 1.0


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
    ("vq", "", "coarse,llama"), ("semantic_vq", "", "semantic"), ("vq", "product", "transformer"),
    ("global_codes", "", "transformer"),
    ("vq", "multi_scale", "next_scale,conditional"),
    ("vae", "", "flow"), ("vae", "", "autoregressive,conditional"), ("vae", "", "diffusion,conditional"),
    ("vae", "", "flow_matching"), ("vae", "map", "mar,conditional"), ("vae", "map", "causal_continuous"),
    ("vae", "map", "diffusion")])
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


@pytest.mark.parametrize("arg, millions", [("paper_mar", 208), ("paper_mar_large", 479), ("paper_mar_huge", 943)])
def test_paper_scale_mar_has_the_papers_number_of_parameters(arg, millions):
    config = get_config("prior", arg)
    check(config)
    config.model.classes = 1000  # which the data say
    batch = {"x": jax.ShapeDtypeStruct((2048, 16, 16, 16), jnp.float32), "label": jax.ShapeDtypeStruct((2048,), int)}
    system = systems.build(config, batch)
    params = jax.eval_shape(system.init, jax.random.key(0), batch).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, rel=0.005)
    assert params["head"]["out"]["kernel"].shape == (config.model.head_hidden, 2 * 16)  # noise and its variance
    assert params["trunk"]["position"].shape == (64 + 256, config.model.hidden)


def test_paper_scale_coarse_to_fine_has_two_networks_of_llamagen_b():
    """Of 111 million parameters 85 are blocks; the rest depends on the codes that are embedded and predicted."""
    config = get_config("prior", "paper_coarse")
    check(config)
    config.model.update(dict(codes=16384, classes=1000, assignment=tuple(i % 512 for i in range(16384))))
    batch = {"x": jax.ShapeDtypeStruct((256, 16, 16), jnp.int32), "label": jax.ShapeDtypeStruct((256,), int)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    blocks = 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768  # attention, gated MLP, norms
    for stage, known, predicted in (("coarse", 512, 512), ("fine", 512, 16384)):
        size = sum(leaf.size for leaf in jax.tree.leaves(params[stage]))
        assert size == blocks + (known + 1001 + predicted) * 768, stage


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


def test_paper_scale_separation_has_7x7_codes_of_256_and_a_prior_of_three_layers():
    config = get_config("vq", "paper_separation")
    batch = {"x": jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32)}
    system = systems.build(config, batch)
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert (system.latent.shape, system.latent.codes) == ((7, 7), 256)
    assert state.params["codes"].shape == (256, 128)
    config = get_config("prior", "paper_separation")
    config.model.update(dict(codes=256, classes=10))
    codes = {"x": jax.ShapeDtypeStruct((128, 7, 7), jnp.int32), "label": jax.ShapeDtypeStruct((128,), jnp.int32)}
    params = jax.eval_shape(systems.build(config, codes).init, jax.random.key(0), codes).params
    d = 128  # a layer: attention, MLP of 4 d, two norms
    layer = dense(d, 3 * d) + dense(d, d) + dense(d, 4 * d, d) + 4 * d
    assert sum(leaf.size for leaf in jax.tree.leaves({k: v for k, v in params["body"].items() if "block" in k})
               ) == 3 * layer
    assert params["embed"]["embedding"].shape == (256, d) and params["first"]["embedding"].shape == (11, d)


@pytest.mark.parametrize("arg, shape, codes, width, layers, heads", [
    ("paper_separation_celeba", (16, 16), 1024, 1664, 24, 16),
    ("paper_separation_imagenet", (16, 16), 16384, 1536, 48, 24),
    ("paper_sounds", (1024,), 2048, 1024, 48, 1), ("sounds", (64,), 256, 128, 3, 4)])
def test_paper_scale_separation_has_the_published_transformers(arg, shape, codes, width, layers, heads):
    """Those of VQGAN's codes, of which ImageNet's has 1.4 billion parameters; Jukebox's small prior."""
    config = get_config("prior", arg)
    check(config)
    config.model.update(dict(codes=codes, classes=1000 if "imagenet" in arg else 2))
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.int32),
             "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    ratio = config.model.mlp_ratio
    layer = dense(width, 3 * width) + dense(width, width) + dense(width, ratio * width, width) + 4 * width
    blocks = {k: v for k, v in params["body"].items() if "block" in k}
    assert sum(leaf.size for leaf in jax.tree.leaves(blocks)) == layers * layer and config.model.heads == heads
    assert params["embed"]["embedding"].shape == (codes, width)
    if "imagenet" in arg:
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e9 == pytest.approx(1.41, rel=0.005)


def test_paper_scale_faces_of_64_pixels_have_16x16_codes():
    config, sizes = sizes_at_paper_scale("vqgan", "paper_separation_celeba_64", (64, 64, 3))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((config.batch_size, 64, 64, 3), jnp.float32)})
    assert system.latent[:2] == ((16, 16), 1024) and sizes["codes"] == 1024 * 256 and sizes["critic"] > 0


def test_paper_scale_audio_is_the_top_level_of_jukebox():
    """Seven halvings in levels of three, two and two: 128 samples to a code of 2,048; clips of 1,024 codes."""
    config, sizes = sizes_at_paper_scale("audio", shape=(131_072, 1))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((config.batch_size, 131_072, 1), jnp.float32)})
    assert system.latent[:2] == ((1024,), 2048)
    block = conv_size(3, 32, 32) + conv_size(1, 32, 32)
    down = [conv_size(4, 1, 32)] + 6 * [conv_size(4, 32, 32)]
    down[3] = down[5] = conv_size(4, 64, 32)  # between levels there are 64 channels
    assert sizes["encoder"] == sum(down) + 7 * 4 * block + 3 * conv_size(3, 32, 64)
    up = 4 * conv_size(4, 32, 32) + 3 * conv_size(4, 32, 64)
    assert sizes["decoder"] == up + 7 * 4 * block + 3 * conv_size(3, 64, 32) + conv_size(3, 64, 1)


def conv_size(kernel, before, after):
    return (kernel * before + 1) * after


def test_paper_scale_global_codes_are_of_whole_maps():
    config = get_config("global_codes", "paper")
    check(config)
    batch = {"x": jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)}
    system = systems.build(config, batch)
    params = jax.eval_shape(system.init, jax.random.key(0), batch).params
    assert system.latent[:2] == ((64,), 512) and params["codes"].shape == (64, 512, 64)
    assert params["encoder"]["projection"].shape == (8, 32 * 32, 64)
    assert params["decoder"]["projection"].shape == (8, 64, 32 * 32)
    widths = [[params[part]["unet"][f"down{level}"]["kernel"].shape[-1] for level in range(3)]
              for part in ("encoder", "decoder")]
    assert widths == [[16, 32, 64], [128, 128, 128]] and "down3" not in params["encoder"]["unet"]  # 8x8 is the smallest
    assert (config.steps, config.batch_size, config.optim.learning_rate) == (100 * 1563, 32, 2e-4)
    config, sizes = sizes_at_paper_scale("global_codes", "sharp,paper_imagenet", (256, 256, 3))
    assert sizes["codes"] == 256 * 512 * 64 and sizes["critic"] > 0
    assert config.model.tokens * 9 / 8 == 288  # bytes


def sizes_at_paper_scale(name, arg="paper", shape=(28, 28, 1)):
    config = get_config(name, arg)
    check(config)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.float32)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    return config, {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in params.items()}


@pytest.mark.parametrize("arg, places, codes, width, networks, batch", [
    ("paper_taming", 16, 1024, 256, 71_879_555, 96), ("paper_rotation_16x16x256", 16, 1024, 256, 71_879_555, 96),
    ("paper_separation_imagenet", 16, 16384, 256, 71_879_555, 96),
    ("paper_separation_celeba", 16, 1024, 256, 71_879_555, 96),
    ("paper_rotation_64x64x3", 64, 8192, 3, 55_298_206, 64),
    ("paper_rotation_32x32x4", 32, 16384, 4, 67_651_759, 64),
    ("paper_rotation_vqvae_32x32x32,cosine", 32, 1024, 32, 0, 256),
    ("paper_rotation_vqvae_64x64x3", 64, 8192, 3, 55_298_206, 256),
    ("paper_fsq", 16, 1000, 4, 0, 256), ("paper_llamagen", 16, 16384, 8, 71_752_331, 128)])
def test_paper_scale_vqgans_have_the_papers_maps_and_networks(arg, places, codes, width, networks, batch):
    """Encoder and decoder together; LlamaGen's with its codes are the 71.9 million of its VQ-16."""
    config, sizes = sizes_at_paper_scale("vqgan", arg, (256, 256, 3))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((config.batch_size, 256, 256, 3), jnp.float32)})
    assert system.latent[:2] == ((places, places), codes) and config.batch_size == batch
    assert sizes.get("codes", codes * width) == codes * width  # else in moving averages, or none
    assert not networks or sizes["encoder"] + sizes["decoder"] == networks
    rotated = "rotation" in arg
    assert (config.model.estimator == "rotation") == rotated and ("critic" in sizes) == ("vqvae" not in arg)
    if "vqvae" in arg:  # 8 batches of 32
        assert (config.optim.accumulate, config.model.decay, config.model.revive, config.optim.weight_decay) == (
            8, 0.8, 0.0, 1e-4)


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


@pytest.mark.parametrize("arg, shape, layers", [("paper_mnist_linear", (28, 28, 1), 8),
                                                ("paper_cifar_linear", (32, 32, 3), 16)])
def test_paper_scale_linear_transformers_of_pixels(arg, shape, layers):
    config, sizes = sizes_at_paper_scale("pixels", arg, shape)
    d = 256  # 8 heads of 32, MLPs of 1,024
    block = dense(d, 3 * d) + dense(d, d) + dense(d, 4 * d, d) + 4 * d
    out = 3 * 10  # weights, locations and scales of ten logistics
    assert sizes["body"] == layers * block + 2 * d + dense(d, out) + d * sum(s for s in shape if s > 1)
    assert (config.optim.name, config.optim.learning_rate) == ("radam", 1e-4)


def test_paper_scale_axial_transformer_of_imagenet32():
    config, sizes = sizes_at_paper_scale("pixels", "paper_imagenet32", (32, 32, 3))
    d = 1536
    block = dense(d, 3 * d) + dense(d, d) + dense(d, d, d) + 4 * d
    assert sizes["encoder"] == 8 * block  # over earlier channels
    assert sizes["body"] == 16 * block + 2 * d + dense(d, 256) + 64 * d  # over rows above, and in the row
    assert (config.batch_size, config.model.heads, config.optim.average) == (64, 16, 0.99995)


def test_paper_scale_axial_transformer_of_robot_videos_given_the_first_frame():
    config, sizes = sizes_at_paper_scale("pixels", "paper_bair", (16, 64, 64, 3))
    d = 2048
    block = dense(d, 3 * d) + dense(d, d) + dense(d, d, d) + 4 * d
    assert sizes["encoder"] == 8 * block  # over earlier channels of the frame
    over_frames, over_rows, in_row = 4 * 3, 4 * 2, 8
    assert sizes["body"] == (over_frames + over_rows + in_row) * block + 2 * d + dense(d, 256) + (16 + 64 + 64) * d
    assert (config.data.frames, config.model.given, config.model.prefix) == (16, True, 1)  # 15 frames from 1


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


@pytest.mark.parametrize("arg, classes", [("paper_ade20k", 151), ("paper_cityscapes", 34), ("paper_coco", 183)])
def test_paper_scale_semantic_vq_has_maps_of_16x16_codes_of_the_datas_classes(arg, classes):
    config = get_config("semantic_vq", arg)
    check(config)
    assert config.data.source.startswith("pairs:") and config.data.classes == classes
    nets = semantic_vq.coupled_vq(config.model, (256, 256, 3))
    params = jax.eval_shape(nets.init, jax.random.key(0))
    assert nets.places == (16, 16)
    assert [(nets.quantizers[part].codes, nets.quantizers[part].width) for part in semantic_vq.PARTS] == 2 * [
        (1024, 256)]
    assert params["semantic_encoder"]["body"]["in"]["kernel"].shape == (3, 3, classes, 128)  # VQGAN's networks
    assert params["semantic_decoder"]["out"]["kernel"].shape[-1] == classes
    seen = [params[f"{part}_decoder"]["from_codes"]["kernel"].shape[2] for part in ("image", "semantic")]
    assert seen == [512, 256]  # the image's decoder sees both


def test_paper_scale_transformer_of_semantic_maps_has_300_million():
    config = get_config("prior", "paper_semantic")
    config.model.update(dict(codes=1024, prefix=1))
    latents = {"x": jax.ShapeDtypeStruct((16, 2, 256), jnp.int32)}
    params = jax.eval_shape(systems.build(config, latents).init, jax.random.key(0), latents).params
    blocks = 24 * (12 * 1024**2 + 13 * 1024)  # attention 4 w^2, MLP 8 w^2, biases and two norms
    assert sum(leaf.size for leaf in jax.tree.leaves(params["body"])) == blocks + (2 + 256 + 2) * 1024 + 1025 * 1024


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


def linear_sizes(width, atoms):
    return {"encoder": width * atoms, "decoder": width * atoms, "bias": atoms, "offset": width}


@pytest.mark.parametrize("arg, shape, wanted", [
    ("paper", (768,), linear_sizes(768, 32_768)),
    ("paper_gemma", (2304,), linear_sizes(2304, 16_384) | {"log_threshold": 16_384}),
    ("paper_clip", (768,), linear_sizes(768, 6144)), ("paper_feature_choice", (768,), linear_sizes(768, 32_768)),
    ("paper_gradient", (768,), linear_sizes(768, 24_576)),
    ("paper_kron", (1536,), linear_sizes(1536, 32_768) | {"encoder": 1536 * 24_576, "bias": 24_576}),
    ("paper_archetypal", (768,), {"encoder": 768 * 3840, "bias": 3840, "weights": 3840 * 32_000, "relax": 3840 * 768,
                                  "log_scale": 1, "offset": 768}),
    ("paper_bias_adaptation", (1536,), {"decoder": 1536 * 65_536, "scale": 65_536, "offset": 1536}),
    ("paper_pursuit", (768,), {"decoder": 768 * 19_200, "offset": 768}),
    ("paper_specialised", (2304,), linear_sizes(2304, 16_384)),
    ("paper_tied", (512,), {"decoder": 512 * 1024, "bias": 1024, "offset": 512}),
    ("paper_seeds", (768,), linear_sizes(768, 32_768)), ("paper_mdl", (28, 28, 1), linear_sizes(784, 4096)),
    ("paper_k_sparse", (28, 28, 1), {"decoder": 784 * 1000, "bias": 1000, "offset": 784})])
def test_paper_scale_sparse_autoencoders(arg, shape, wanted):
    config, sizes = sizes_at_paper_scale("sae", arg, shape)
    assert sizes == wanted
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.float32)}
    if arg == "paper_gradient":
        batch["gradient"] = batch["x"]
    system = systems.build(config, batch)
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    moved, _ = jax.eval_shape(system.step, state, batch, jax.random.key(0))
    assert {k: v.size for k, v in moved.params.items()} == wanted


def test_paper_scale_fine_tuning_reads_a_thousand_codes():
    batch = {"x": jax.ShapeDtypeStruct((100, 28, 28, 1), jnp.float32), "label": jax.ShapeDtypeStruct((100,), jnp.int32)}
    system = systems.build(get_config("fine_tuning", "paper"), batch)
    params = jax.eval_shape(system.init, jax.random.key(0), batch).params
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert sizes == {"decoder": 784 * 1000, "bias": 1000, "offset": 784, "readout": 1000 * 10 + 10}


def test_paper_scale_deep_dictionary_halves_784_pixels_three_times():
    config, found = sizes_at_paper_scale("deep_dictionary")
    sizes = (392, 196, 98)
    assert found == {f"layer{i}": a * b for i, (a, b) in enumerate(zip((784, *sizes), sizes, strict=False))}
    assert (config.model.examples, config.prepare_every, config.prepare_examples) == (60_000, 1, 0)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, 28, 28, 1), jnp.float32)}
    system = systems.build(config, batch)
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    data_ = {"x": jax.ShapeDtypeStruct((60_000, 28, 28, 1), jnp.float32)}
    assert jax.eval_shape(system.prepare, state, data_, jax.random.key(0)).extra.codes.shape == (60_000, 98)
