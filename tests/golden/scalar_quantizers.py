"""Writes scalar_quantizers.npz: what vector-quantize-pytorch makes of seeded inputs (extra `parity`).

python tests/golden/scalar_quantizers.py
"""

import importlib.metadata
import pathlib

import numpy as np
import torch
from vector_quantize_pytorch import FSQ, LFQ, LatentQuantize, ResidualFSQ

LEVELS = {"even": (8, 6, 4), "mixed": (8, 5, 5, 5), "odd": (7, 5, 3)}


def finite_scalar(rng):
    out = {}
    for name, levels in LEVELS.items():
        z = (3 * rng.standard_normal((1, 200, len(levels)))).astype(np.float32)
        codes, indices = FSQ(levels)(torch.from_numpy(z))
        out |= {f"fsq/{name}/levels": levels, f"fsq/{name}/z": z[0], f"fsq/{name}/codes": codes[0],
                f"fsq/{name}/indices": indices[0]}
    z = rng.standard_normal((1, 300, 2)).astype(np.float32)
    out |= {"residual/levels": (5, 4), "residual/z": z[0]}
    for depth in (1, 2, 3):
        codes, indices = ResidualFSQ(levels=[5, 4], num_quantizers=depth).eval()(torch.from_numpy(z))
        out |= {f"residual/codes{depth}": codes[0], f"residual/indices{depth}": indices[0]}
    return out


def lookup_free(rng):
    out = {}
    for name, spherical in {"lfq": False, "bsq": True}.items():
        z = rng.standard_normal((4, 30, 6)).astype(np.float32)
        leaf = torch.from_numpy(z).requires_grad_()
        model = LFQ(dim=6, codebook_size=64, entropy_loss_weight=0.1, commitment_loss_weight=0.25, diversity_gamma=0.7,
                    spherical=spherical).train()
        # so soft that no probability falls below its floor of 1e-5 inside the logarithm
        result, parts = model(leaf, inv_temperature=0.3, return_loss_breakdown=True)
        result.entropy_aux_loss.backward()
        out |= {f"{name}/z": z, f"{name}/codes": result.quantized, f"{name}/indices": result.indices,
                f"{name}/loss": result.entropy_aux_loss, f"{name}/gradient": leaf.grad,
                f"{name}/parts": torch.stack(parts)}
    return out


def latent(rng):
    out = {}
    for name, levels in {"odd": (5, 5, 5), "even": (4, 4, 4)}.items():
        z = rng.uniform(-0.8, 0.8, (20, 3)).astype(np.float32)
        model = LatentQuantize(levels=list(levels), dim=3, commitment_loss_weight=0.3, quantization_loss_weight=0.2)
        leaf = torch.from_numpy(z).requires_grad_()
        codes, _, loss = model.train()(leaf[:, :, None])
        loss.backward()
        reached = [value.grad is not None and bool((value.grad != 0).any()) for value in model.values_per_latent]
        out |= {f"latent/{name}/z": z, f"latent/{name}/codes": codes[..., 0], f"latent/{name}/loss": loss,
                f"latent/{name}/gradient": leaf.grad, f"latent/{name}/values_reached": reached,
                f"latent/{name}/values": model.values_per_latent[0]}
    return out


def main():
    rng = np.random.default_rng(0)
    version = importlib.metadata.version("vector-quantize-pytorch")
    out = {"versions": f"vector-quantize-pytorch {version}, torch {torch.__version__}"}
    out |= finite_scalar(rng) | lookup_free(rng) | latent(rng)
    out = {name: value.detach().numpy() if isinstance(value, torch.Tensor) else value for name, value in out.items()}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
