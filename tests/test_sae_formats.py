"""Dictionaries in the files of other libraries: what those wrote and read is in golden/sae_formats.npz."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dictionary_examples import LOADERS, SAVERS, D, M, example
from ml_collections import ConfigDict

from jaxae import optim, systems
from jaxae.sae import formats
from jaxae.sae.formats import Dictionary
from jaxae.systems.base import variables
from jaxae.systems.dictionary_files import loaded, plain
from jaxae.systems.sparse import dictionary

GOLDEN = Path(__file__).parent / "golden" / "sae_formats.npz"
COMPILED = {}  # functions of variables and inputs, by what they depend on

def outputs(dictionary: Dictionary, x, **changes):
    """(codes, reconstructions) of the system that a dictionary stands for."""
    system, now = loaded(dictionary, **changes)
    key = str((dictionary.model, changes, jax.tree.map(jnp.shape, now)))
    if key not in COMPILED:
        COMPILED[key] = jax.jit(lambda now, x: (system.encode(now, x), system.reconstruct(now, x)))
    return COMPILED[key](now, x)


def inputs(rows=12, width=D):
    return np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)


def close(got, want, tolerance=1e-5):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [str(n) for n in np.load(GOLDEN)["names"]] if GOLDEN.exists() else [])
def test_files_of_other_libraries_have_their_activations_and_reconstructions(name, tmp_path):
    golden = np.load(GOLDEN)
    for file in golden[f"{name}/files"]:
        (tmp_path / str(file)).write_bytes(golden[f"{name}/{file}"].tobytes())
    found = LOADERS[name.split("/")[0]](tmp_path)
    codes, y_hat = outputs(found, golden[f"{name}/x"])
    assert 0 < (golden[f"{name}/codes"] != 0).mean() < 0.9
    close([codes], [golden[f"{name}/codes"]])
    if f"{name}/y_hat" in golden:  # where inputs are normalised one by one, reconstructions are of those
        close([y_hat], [golden[f"{name}/y_hat"]])


def test_other_libraries_read_what_is_written_here():
    """Their outputs on our files against ours, as the script found them."""
    golden = np.load(GOLDEN)
    assert len(golden["read_names"]) >= 10
    for name in golden["read_names"]:
        close([golden[f"read/{name}/codes"], golden[f"read/{name}/y_hat"]],
              outputs_of_numpy(golden, f"read/{name}"))


def outputs_of_numpy(golden, name):
    """(codes, reconstructions) of the dictionary that was written, by this library."""
    model = json.loads(str(golden[f"{name}/model"]))
    params = {key: golden[f"{name}/params/{key}"] for key in golden[f"{name}/params"]}
    return outputs(Dictionary(params, model), golden[f"{name}/x"])


@pytest.mark.parametrize("library, kind, options", [
    ("saelens", "relu", {}), ("saelens", "jump_relu", dict(center=True)), ("saelens", "topk", dict(center=True)),
    ("saelens", "absolute_topk", {}), ("saelens", "gated", dict(center=True)), ("saelens", "relu", dict(out=4)),
    ("saelens", "jump_relu", dict(center=True, skip=True)), ("saelens", "topk", dict(normalise="example")),
    ("sparsify", "topk", dict(center=True)), ("sparsify", "topk", dict(skip=True)),
    ("gemma_scope", "jump_relu", dict(center=True)), ("gemma_scope", "relu", dict(out=4))])
def test_what_is_written_and_read_again_is_the_same_function(library, kind, options, tmp_path):
    written = example(kind, **options)
    SAVERS[library](tmp_path / "there", written)
    close(outputs(LOADERS[library](tmp_path / "there"), inputs()), outputs(written, inputs()))


@pytest.mark.parametrize("kind", ["jump_relu", "topk", "gated"])
@pytest.mark.parametrize("keep, center", [("atoms", False), ("activations", True)])
def test_a_folded_scale_gives_the_same_reconstruction_of_raw_activations(kind, keep, center):
    trained, raw = example(kind, center=center), 30.0 * inputs() + 5.0
    s = formats.normalise_scale(raw)
    np.testing.assert_allclose(np.square(s * raw).sum(1).mean(), 1.0, rtol=1e-5)
    codes, y_hat = outputs(trained, s * raw)
    factor = 1.0 / s if keep == "atoms" else 1.0
    got = outputs(formats.fold_scale(trained, s, keep=keep), raw)
    close([got[0] / factor, got[1] * s], [codes, y_hat], 2e-5)


@pytest.mark.parametrize("kind", ["gated", "jump_relu", "topk"])
def test_an_offset_that_is_subtracted_can_go_into_the_biases(kind):
    centred = example(kind, center=True)
    assert not formats.uncentred(centred).model["center"]
    close(outputs(formats.uncentred(centred), inputs()), outputs(centred, inputs()))


def test_a_transcoder_has_a_scale_for_its_input_and_one_for_its_output():
    trained, x = example("jump_relu", out=4, skip=True), inputs()
    for keep in ("atoms", "activations"):
        got = outputs(formats.fold_scale(trained, 0.5, output_scale=4.0, keep=keep), 2.0 * x)
        close([4.0 * got[1]], [outputs(trained, x)[1]], 2e-5)


@pytest.mark.parametrize("changes", [
    dict(sparsifier="prolu"), dict(sparsifier="batch_topk", k=3), dict(sparsifier="feature_choice", k=3),
    dict(encoder="tied", sparsifier="relu", bias="none"), dict(decoder="scaled", sparsifier="topk", k=5, k_test=2),
    dict(decoder="archetypal", candidates=12, unit_norm=False, sparsifier="jump_relu", bias="adapted")])
def test_trained_options_become_those_that_files_hold(changes):
    """Codes and reconstructions of the plain dictionary are those of the model, off the training path."""
    config = ConfigDict(dict(system="sparse.dictionary", steps=1, batch_size=64, optim=optim.defaults(),
                             model=dictionary.defaults()))
    config.model.update(dict(atoms=M) | changes)
    x = inputs(64)
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((64, D), np.float32)})
    now, rng = variables(jax.jit(system.init)(jax.random.key(0), {"x": x})), np.random.default_rng(3)
    params = {name: jnp.float32(rng.standard_normal(a.shape)) for name, a in now.params.items()}
    threshold = jax.tree.map(lambda a: jnp.float32(rng.uniform(0.2, 1.0, a.shape)), now.extra.threshold)
    extra = now.extra._replace(threshold=threshold, memory={
        name: jnp.float32(rng.standard_normal(leaf.shape)) if name in ("bias", "candidates") else leaf
        for name, leaf in now.extra.memory.items()})
    now = now._replace(params=params, extra=extra)
    want = jax.jit(lambda now, x: (system.encode(now, x), system.reconstruct(now, x)))(now, x)
    close(outputs(plain(config.model, now), x), want)


def broken(tmp_path, change):
    folder = formats.save_saelens(tmp_path / "sae", example("jump_relu"))
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | change))
    return folder


@pytest.mark.parametrize("change, message", [
    (dict(architecture="temporal"), "architecture 'temporal' has no counterpart"), (dict(d_in=7), "d_in=7"),
    (dict(architecture="gated"), "has no b_gate, r_mag, b_mag; it has W_dec"),
    (dict(normalize_activations="expected_average_only_in"), "needs scale="),
    (dict(normalize_activations="covariance_whitening"), "covariance_whitening"),
    (dict(activation_fn_str="tanh-relu"), "tanh-relu")])
def test_files_that_have_no_counterpart_are_refused_in_one_sentence(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        formats.load_saelens(broken(tmp_path, change))


def test_what_a_file_cannot_hold_or_is_not_is_said(tmp_path):
    with pytest.raises(ValueError, match="sparsify holds 'topk'"):
        formats.save_sparsify(tmp_path, example("relu"))
    with pytest.raises(ValueError, match="holds JumpReLU and ReLU"):
        formats.save_gemma_scope(tmp_path, example("topk"))
    with pytest.raises(ValueError, match="SAELens has transcoders of .* save_sparsify"):
        formats.save_saelens(tmp_path, example("topk", skip=True))
    with pytest.raises(ValueError, match="has no cfg.json"):
        formats.load_sparsify(tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        formats.load_gemma_scope(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"decoder of shape \(9, 6\)"):
        formats.make(np.ones((6, 10)), np.ones((9, 6)), np.ones(10), np.ones(6))
    with pytest.raises(ValueError, match="of another model"):
        loaded(example("gated"), sparsifier="relu")
    (tmp_path / "params.npz").write_text("no")
    with pytest.raises(ValueError, match="cannot be read"):
        formats.load_gemma_scope(tmp_path)
