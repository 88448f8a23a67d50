"""Sliced Wasserstein distance, value and gradient by the codes: ours against POT on PyTorch, in one run.

    PYTHONPATH=. python experiments/bench/sliced.py    # 1 minute on 2 cores; needs POT and PyTorch (extra `parity`)

1,024 codes and 1,024 prior samples in 64 dimensions, 500 projections drawn anew in every call, p = 2, float32. Each
library lives in its own process on the same cores; they take turns, and one idles while the other works.

What differs: see `DIFFERENCES`, which is printed.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import numpy as np

from experiments.bench import paired
from experiments.bench.train import _cpu

SIZE, DIMENSION, PROJECTIONS = 1024, 64, 500
RESULTS = Path(__file__).with_name("results") / "sliced.json"
LIBRARIES = ("ours", "ours, in a loop", "ours, lax.sort", "POT")
LOOP = 5  # calls in one compiled loop, as in training
DIFFERENCES = """\
POT's value is the root of the mean, here squared again; PyTorch differentiates by the codes alone, as ours does. POT
handles weighted samples in general: it also sorts the merged cumulative weights, which ours never forms. `in a loop`
runs several calls in one compiled program, as the training loop does; `lax.sort` is ours without the network."""


def batches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = 0.7 * rng.normal(size=(SIZE, DIMENSION)) + 0.1, rng.normal(size=(SIZE, DIMENSION))
    return x.astype(np.float32), y.astype(np.float32)


def build(library: str):
    """`call(seed) -> (value, gradient)`, and how many calls one of it stands for."""
    x, y = batches()
    if library == "POT":
        import ot
        import torch

        codes, prior = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)

        def pot(seed):
            value = ot.sliced_wasserstein_distance(codes, prior, n_projections=PROJECTIONS, seed=seed) ** 2
            return value.item(), torch.autograd.grad(value, codes)[0].numpy()

        return pot, 1

    import importlib

    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxae.losses.sliced_wasserstein import sliced_wasserstein

    if library == "ours, lax.sort":
        importlib.import_module("jaxae.losses.sorting")._form = lambda form, columns: "lax"
    step = jax.value_and_grad(lambda x, y, key: sliced_wasserstein(x, y, key, PROJECTIONS))
    if library == "ours, in a loop":
        def run(x, y, key):
            def body(x, key):
                value, gradient = step(x, y, key)
                return x - 1e-20 * gradient, (value, gradient[:1])
            x, (values, _) = lax.scan(body, x, jax.random.split(key, LOOP))
            return values.mean(), x
    else:
        run = step
    compiled, x, y = jax.jit(run), jnp.asarray(x), jnp.asarray(y)
    keys = [jax.random.key(seed) for seed in range(1000)]

    def ours(seed):
        return jax.block_until_ready(compiled(x, y, keys[seed % len(keys)]))

    return ours, LOOP if library == "ours, in a loop" else 1


def main():
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES[1:], choices=LIBRARIES[1:])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10, help="of one turn, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    rows = paired.by_turns(build, ("ours", *options.libraries), options.repeats, options.calls, options.threads)
    packages = ["jax", *(("torch", "POT") if "POT" in options.libraries else ())]
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": options.threads, "repeats": options.repeats,
               "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
               "size": SIZE, "dimension": DIMENSION, "projections": PROJECTIONS,
               "differences": DIFFERENCES.replace("\n", " "), "rows": rows}
    print(f"{results['cpu']}, {options.threads} threads, float32, {SIZE} x {DIMENSION}, {PROJECTIONS} projections, "
          f"{results['date']}, " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + "\n")
    print(paired.table(rows) + "\n\n" + DIFFERENCES)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
