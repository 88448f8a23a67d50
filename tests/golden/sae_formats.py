"""Writes sae_formats.npz: files of SAELens and sparsify with their outputs, and their outputs on files of jaxae.

pip install "torch<=2.13" sae-lens eai-sparsify && python tests/golden/sae_formats.py
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile
import warnings

import numpy as np
import sae_lens.loading.pretrained_sae_loaders as loaders
import torch
from sae_lens import saes
from sae_lens.saes.sae import SAE
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from dictionary_examples import SAVERS, D, M, example  # noqa: E402

OUT, K = 4, 3


def fill(module, seed):
    """Random values in the place of every parameter; thresholds of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 1.0 if name.startswith("W_") or "weight" in name else 0.4
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def rows(seed, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((12, D))).astype(np.float32)


def run(sae, x):
    """Codes and reconstructions of an autoencoder of SAELens."""
    with torch.no_grad():
        x = torch.tensor(x)
        return sae.encode(x).numpy(), sae(x).numpy()


def coded(coder, x):
    """Those of a sparse coder of sparsify, codes of all atoms."""
    with torch.no_grad():
        done = coder(torch.tensor(x))
        codes = torch.zeros(len(x), coder.num_latents).scatter(-1, done.latent_indices, done.latent_acts)
    return codes.numpy(), done.sae_out.numpy()


def keep(out, name, folder, x, codes, y_hat):
    files = sorted(p.name for p in folder.iterdir())
    out |= {f"{name}/files": files, f"{name}/x": x, f"{name}/codes": codes, f"{name}/y_hat": y_hat}
    out |= {f"{name}/{file}": np.frombuffer((folder / file).read_bytes(), np.uint8) for file in files}


def their_files(out, folders):
    base = dict(d_in=D, d_sae=M)
    configs = {
        "standard": saes.StandardSAEConfig(**base),
        "bfloat16": saes.StandardSAEConfig(**base, dtype="bfloat16", apply_b_dec_to_input=False),
        "layer_norm": saes.StandardSAEConfig(**base, normalize_activations="layer_norm"),
        "constant_norm": saes.JumpReLUSAEConfig(**base, normalize_activations="constant_norm_rescale"),
        "topk": saes.TopKSAEConfig(**base, k=K, apply_b_dec_to_input=False),
        "topk_rescaled": saes.TopKSAEConfig(**base, k=K, rescale_acts_by_decoder_norm=True),
        "abstopk": saes.AbsTopKSAEConfig(**base, k=K, rescale_acts_by_decoder_norm=True),
        "jumprelu": saes.JumpReLUSAEConfig(**base),
        "gated": saes.GatedSAEConfig(**base),
        "transcoder": saes.TranscoderConfig(**base, d_out=OUT, apply_b_dec_to_input=False),
        "skip_transcoder": saes.SkipTranscoderConfig(**base, d_out=OUT, apply_b_dec_to_input=False),
        "jumprelu_transcoder": saes.JumpReLUTranscoderConfig(**base, d_out=OUT, apply_b_dec_to_input=False),
        "jumprelu_skip_transcoder": saes.JumpReLUSkipTranscoderConfig(**base, d_out=D, apply_b_dec_to_input=False),
    }
    for seed, (name, config) in enumerate(configs.items()):
        sae = fill(SAE.get_sae_class_for_architecture(config.architecture())(config), seed)
        folder = next(folders)
        sae.save_model(folder)
        normalised = name in ("layer_norm", "constant_norm")
        x = rows(seed, 30.0 if normalised else 1.0)  # layer_norm adds 1e-5 to the deviation
        codes, y_hat = run(SAE.load_from_disk(folder, dtype="float32"), x)
        if normalised:  # the reconstruction in units of the input that has norm one
            centre = x.mean(-1, keepdims=True) if name == "layer_norm" else 0.0
            y_hat = (y_hat - centre) / np.linalg.norm(x - centre, axis=-1, keepdims=True)
        keep(out, f"saelens/{name}", folder, x, codes, y_hat)
    training = {"batchtopk": saes.BatchTopKTrainingSAEConfig(**base, k=K),
                "matryoshka_batchtopk": saes.MatryoshkaBatchTopKTrainingSAEConfig(**base, k=K,
                                                                                 matryoshka_widths=[4, M])}
    for seed, (name, config) in enumerate(training.items()):
        kind = {"batchtopk": saes.BatchTopKTrainingSAE, "matryoshka_batchtopk": saes.MatryoshkaBatchTopKTrainingSAE}
        sae = fill(kind[name](config), 20 + seed)
        sae.topk_threshold.fill_(1.25)
        trained, finished, x = next(folders), next(folders), rows(20 + seed)
        sae.save_model(trained)
        sae.save_inference_model(finished)  # after it, as it folds norms in place
        outputs = run(SAE.load_from_disk(finished), x)
        keep(out, f"saelens/{name}_training", trained, x, *outputs)
        keep(out, f"saelens/{name}", finished, x, *outputs)
    older(out, next(folders))


def older(out, folder):
    """A config as versions before 6 wrote it, where TopK was an activation."""
    sae = fill(saes.TopKSAE(saes.TopKSAEConfig(d_in=D, d_sae=M, k=K)), 30)
    sae.save_model(folder)
    (folder / "cfg.json").write_text(json.dumps(dict(
        architecture="standard", d_in=D, d_sae=M, dtype="float32", device="cpu", activation_fn_str="topk",
        activation_fn_kwargs=dict(k=K), apply_b_dec_to_input=True, normalize_activations="none",
        hook_name="blocks.0.hook_resid_pre", finetuning_scaling_factor=False, sae_lens_training_version="3.0.0")))
    keep(out, "saelens/version_5", folder, rows(30), *run(SAE.load_from_disk(folder), rows(30)))


def sparse_coders(out, folders):
    for seed, (name, options) in enumerate({"topk": {}, "transcoder": dict(transcode=True),
                                            "skip": dict(transcode=True, skip_connection=True),
                                            "expanded": dict(num_latents=0, expansion_factor=2)}.items()):
        coder = fill(SparseCoder(D, SparseCoderConfig(**(dict(num_latents=M, k=K) | options))), 40 + seed)
        folder = next(folders)
        coder.save_to_disk(folder)
        keep(out, f"sparsify/{name}", folder, rows(40 + seed), *coded(SparseCoder.load_from_disk(folder),
                                                                      rows(40 + seed)))


def gemma_scope(path):
    """A file of Gemma Scope as SAELens reads it."""
    loaders.hf_hub_download = lambda **_: str(path)
    config, arrays, _ = loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", "layer_0/width_16k/average_l0_1", cfg_overrides=dict(d_in=D, d_sae=M))
    sae = saes.JumpReLUSAE(saes.JumpReLUSAEConfig.from_dict(loaders.handle_config_defaulting(config)))
    sae.load_state_dict(arrays)
    return sae


def our_files(out, folders):
    """Outputs of those libraries on what this one writes."""
    cases = {"relu": ("saelens", "relu", dict(center=True)), "jump_relu": ("saelens", "jump_relu", {}),
             "topk": ("saelens", "topk", dict(center=True)), "absolute_topk": ("saelens", "absolute_topk", {}),
             "gated": ("saelens", "gated", dict(center=True)), "transcoder": ("saelens", "relu", dict(out=OUT)),
             "skip": ("saelens", "jump_relu", dict(skip=True, center=True)),
             "sparsify": ("sparsify", "topk", dict(center=True)),
             "sparsify_skip": ("sparsify", "topk", dict(skip=True)),
             "gemma_scope": ("gemma_scope", "jump_relu", dict(center=True))}
    for seed, (name, (library, kind, options)) in enumerate(cases.items()):
        written, x = example(kind, seed=seed, **options), rows(60 + seed)
        path = SAVERS[library](next(folders), written)
        codes, y_hat = {"saelens": lambda p=path, x=x: run(SAE.load_from_disk(p), x),
                        "sparsify": lambda p=path, x=x: coded(SparseCoder.load_from_disk(p), x),
                        "gemma_scope": lambda p=path, x=x: run(gemma_scope(p), x)}[library]()
        out |= {f"read/{name}/x": x, f"read/{name}/codes": codes, f"read/{name}/y_hat": y_hat,
                f"read/{name}/model": json.dumps(written.model), f"read/{name}/params": sorted(written.params)}
        out |= {f"read/{name}/params/{key}": array for key, array in written.params.items()}
    out["read_names"] = sorted(cases)


def main():
    warnings.simplefilter("ignore")
    out = {f"version/{name}": importlib.metadata.version(name) for name in ("sae-lens", "eai-sparsify", "torch")}
    with tempfile.TemporaryDirectory() as parent:
        folders = (pathlib.Path(parent) / str(i) for i in range(100))
        their_files(out, folders)
        sparse_coders(out, folders)
        folder, rng = next(folders), np.random.default_rng(50)
        folder.mkdir()
        np.savez(folder / "params.npz", W_enc=rng.standard_normal((D, M), np.float32), b_enc=rng.standard_normal(M),
                 W_dec=rng.standard_normal((M, D), np.float32), b_dec=rng.standard_normal(D),
                 threshold=rng.uniform(0.1, 2.0, M))
        keep(out, "gemma_scope/params", folder, rows(50), *run(gemma_scope(folder / "params.npz"), rows(50)))
        our_files(out, folders)
    out["names"] = sorted(name.removesuffix("/files") for name in out if name.endswith("/files"))
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
