"""A vector quantizer's forward and backward pass: ours against vector-quantize-pytorch, in one run.

    PYTHONPATH=. python experiments/bench/quantizers.py    # needs PyTorch and vector-quantize-pytorch (extra `parity`)

16,384 vectors of width 64, K = 1,024, a codebook by moving averages with its update, straight-through and rotation;
the gradient is that of a sum of squares plus the quantizer's own loss, by the vectors. See `DIFFERENCES`, which is
printed, and `paired.py` for how turns are taken.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import numpy as np

from experiments.bench import paired
from experiments.bench.train import _cpu

SIZE, WIDTH, CODES = 16_384, 64, 1024
RESULTS = Path(__file__).with_name("results") / "quantizers.json"
LIBRARIES = ("ours", "ours, rotation", "vector-quantize", "vector-quantize, rotation")
DIFFERENCES = """\
Both search all codes, update counts and sums of the batch, and revive nothing. vector-quantize-pytorch weighs the
commitment by 1 times a mean over all numbers, as ours does here."""


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, SIZE // 64, WIDTH)).astype(np.float32)


def build(library: str):
    """`call(seed) -> (loss, gradient)`."""
    z = vectors()
    estimator = "rotation" if library.endswith("rotation") else "straight_through"
    if library.startswith("vector-quantize"):
        import torch
        from vector_quantize_pytorch import VectorQuantize

        module = VectorQuantize(dim=WIDTH, codebook_size=CODES, decay=0.99, commitment_weight=1.0,
                                threshold_ema_dead_code=0, rotation_trick=estimator == "rotation")
        module.train()
        x = torch.from_numpy(z).requires_grad_()

        def theirs(seed):
            z_q, _, loss = module(x)
            total = (z_q**2).mean() + loss.sum()
            return total.item(), torch.autograd.grad(total, x)[0].numpy()

        return theirs, 1

    import jax
    import jax.numpy as jnp

    from jaxae import quantizers

    quantizer = quantizers.vector(CODES, WIDTH, beta=1.0, estimator=estimator, revive=0.0)

    @jax.jit
    def step(z, state, key):
        def loss(z):
            found = quantizer.quantize(z, state, key, True)
            return jnp.mean(found.z_q**2) + found.loss.mean(), found.state

        return jax.value_and_grad(loss, has_aux=True)(z)

    x, state = jnp.asarray(z), quantizer.init(jax.random.key(0))

    def ours(seed):
        nonlocal state
        (value, state), gradient = jax.block_until_ready(step(x, state, jax.random.key(seed)))
        return float(value), gradient

    return ours, 1


def main():
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES[1:], choices=LIBRARIES[1:])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="of one turn, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    rows = paired.by_turns(build, ("ours", *options.libraries), options.repeats, options.calls, options.threads)
    theirs = any(name.startswith("vector-quantize") for name in options.libraries)
    packages = ["jax", *(("torch", "vector-quantize-pytorch") if theirs else ())]
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": options.threads, "repeats": options.repeats,
               "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
               "size": SIZE, "width": WIDTH, "codes": CODES, "differences": DIFFERENCES.replace("\n", " "),
               "rows": rows}
    print(f"{results['cpu']}, {options.threads} threads, float32, {SIZE} x {WIDTH}, K = {CODES}, {results['date']}, "
          + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + "\n")
    print(paired.table(rows) + "\n\n" + DIFFERENCES)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
