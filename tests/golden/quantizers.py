"""Writes quantizers.npz: codes, updates and gradients of vector-quantize-pytorch on seeded vectors.

pip install -e ".[parity]" && python tests/golden/quantizers.py
"""

import importlib.metadata
import pathlib

import numpy as np
import torch
from vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

CODES, WIDTH, DEPTH = 8, 4, 3


def with_gradient(module, x, g, position=0):
    """Outputs of a module, and the gradient at x that g at its first output (or at `position`) brings."""
    x = torch.tensor(x, requires_grad=True)
    out = module(x)
    (out[position] * torch.tensor(g)).sum().backward()
    return [a.detach().numpy() for a in out], x.grad.numpy()


def vector(out, rng):
    """Two updates of an EMA codebook, by distance and by angle, without and with the rotation trick."""
    for name, cosine, rotation in (("euclidean", False, False), ("cosine", True, False), ("rotated", False, True)):
        quantizer = VectorQuantize(WIDTH, CODES, decay=0.8, use_cosine_sim=cosine, rotation_trick=rotation).train()
        book = quantizer._codebook
        start = rng.standard_normal((1, CODES, WIDTH)).astype(np.float32)
        start = start / np.linalg.norm(start, axis=-1, keepdims=True) if cosine else start
        book.embed.data.copy_(torch.tensor(start))
        book.embed_avg.data.copy_(torch.tensor(start))
        x, g = (rng.standard_normal((2, 3, 10, WIDTH)).astype(np.float32) for _ in range(2))
        out |= {f"{name}/start": start[0], f"{name}/x": x, f"{name}/g": g}
        for step in range(2):
            (z_q, indices, commitment), gradient = with_gradient(quantizer, x[step], g[step])
            out |= {f"{name}/{step}/z_q": z_q, f"{name}/{step}/indices": indices, f"{name}/{step}/gradient": gradient,
                    f"{name}/{step}/commitment": commitment, f"{name}/{step}/codes": book.embed[0].numpy().copy(),
                    f"{name}/{step}/counts": book.cluster_size[0].numpy().copy(),
                    f"{name}/{step}/sums": book.embed_avg[0].numpy().copy()}


def residual(out, rng):
    quantizer = ResidualVQ(dim=WIDTH, num_quantizers=DEPTH, codebook_size=CODES, rotation_trick=False).train()
    start = (rng.standard_normal((DEPTH, CODES, WIDTH)) * np.array([1.0, 0.5, 0.25])[:, None, None]).astype(np.float32)
    for layer, codes in zip(quantizer.layers, start, strict=True):
        layer._codebook.embed.data.copy_(torch.tensor(codes[None]))
        layer._codebook.embed_avg.data.copy_(torch.tensor(codes[None]))
    x, g = (rng.standard_normal((3, 10, WIDTH)).astype(np.float32) for _ in range(2))
    (z_q, indices, losses), gradient = with_gradient(quantizer, x, g)
    out |= {"residual/start": start, "residual/x": x, "residual/g": g, "residual/z_q": z_q,
            "residual/indices": indices, "residual/commitments": losses, "residual/gradient": gradient,
            "residual/codes": np.stack([layer._codebook.embed[0].numpy() for layer in quantizer.layers])}


def simvq(out, rng):
    quantizer = SimVQ(WIDTH, CODES, rotation_trick=False).train()
    x = rng.standard_normal((3, 10, WIDTH)).astype(np.float32)
    z = torch.tensor(x, requires_grad=True)
    z_q, indices, loss = quantizer(z)
    loss.backward()
    weight = quantizer.code_transform.weight
    out |= {"simvq/x": x, "simvq/frozen": quantizer.frozen_codebook.numpy(), "simvq/map": weight.detach().numpy().T,
            "simvq/z_q": z_q.detach().numpy(), "simvq/indices": indices.numpy(), "simvq/loss": loss.item(),
            "simvq/by_x": z.grad.numpy(), "simvq/by_map": weight.grad.numpy().T}


def rotation(out, rng):
    """Random pairs, and two where the official formula fails: q = -e and e = 0."""
    e, q, g = (rng.standard_normal((20, WIDTH)).astype(np.float32) for _ in range(3))
    q[0], e[1] = -e[0], 0.0
    source = torch.tensor(e, requires_grad=True)
    value = rotate_to(source, torch.tensor(q))
    value.backward(torch.tensor(g))
    out |= {"rotation/e": e, "rotation/q": q, "rotation/g": g, "rotation/value": value.detach().numpy(),
            "rotation/gradient": source.grad.numpy()}


def main():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    out = {"versions": f"vector-quantize-pytorch {importlib.metadata.version('vector-quantize-pytorch')}, "
                       f"torch {torch.__version__}"}
    for write in (vector, residual, simvq, rotation):
        write(out, rng)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
