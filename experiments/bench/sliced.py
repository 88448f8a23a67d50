"""Sliced Wasserstein distance, value and gradient by the codes: ours against POT on PyTorch, in one run.

    PYTHONPATH=. python experiments/bench/sliced.py    # 1 minute on 2 cores; needs POT and PyTorch (extra `parity`)

1,024 codes and 1,024 prior samples in 64 dimensions, 500 projections drawn anew in every call, p = 2, float32. Each
library lives in its own process on the same cores; they take turns, and one idles while the other works.

What differs: see `DIFFERENCES`, which is printed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np

from experiments.bench.train import _busy, _cpu, _spread

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


def serve(pipe, library: str, threads: int) -> None:
    """A library's process: builds, then answers with the seconds of a call."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    (call, each), seed = build(library), 0
    pipe.send({"value": float(np.mean([call(seed)[0] for seed in range(5)]))})
    while (calls := pipe.recv()) is not None:
        times, cpu, start = [], time.process_time(), time.perf_counter()
        turns = -(-calls // each)
        call(seed)  # the caches are full of another library's
        for _ in range(turns):
            seed, begin = seed + 1, time.perf_counter()
            call(seed)
            times.append((time.perf_counter() - begin) / each)
        cpu = time.process_time() - cpu
        pipe.send({"seconds": float(np.median(times)), "cpu": cpu, "cpu_of_a_call": cpu / (turns + 1) / each,
                   "whole": time.perf_counter() - start})


def measure(workers: dict, repeats: int, calls: int) -> list[dict]:
    """A row of numbers for each library, ours first."""
    rows = [{"library": library} | pipe.recv() | {"turns": [], "cpu": [], "others": []}
            for library, pipe in workers.items()]
    for repeat in range(repeats):
        for row in np.roll(rows, repeat):
            busy = _busy()
            workers[row["library"]].send(calls)
            turn = workers[row["library"]].recv()
            row["turns"].append(turn["seconds"])
            row["cpu"].append(turn["cpu_of_a_call"])
            row["others"].append(np.clip((_busy() - busy - turn["cpu"]) / turn["whole"] / os.cpu_count(), 0, 1))
    ours, our_cpu = rows[0]["turns"], rows[0]["cpu"]
    for row in rows:
        turns, cpu = row.pop("turns"), row.pop("cpu")
        row |= {"milliseconds": _spread([1e3 * t for t in turns]), "cpu_milliseconds": _spread([1e3 * t for t in cpu]),
                "ours_over_it": _spread([t / mine for t, mine in zip(turns, ours, strict=True)]),
                "ours_over_it_in_cpu": _spread([t / mine for t, mine in zip(cpu, our_cpu, strict=True)]),
                "others": float(np.median(row["others"]))}
    return rows


def table(results: dict) -> str:
    """The results for people."""
    lines = [f"{results['cpu']}, {results['threads']} threads, float32, {SIZE} x {DIMENSION}, {PROJECTIONS} "
             f"projections, {results['date']}, " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()), "",
             f"{'library':17}{'ms':>8}{'min':>8}{'max':>8}{'ours x':>8}{'min':>6}{'max':>6}{'cpu ms':>8}{'ours x':>8}"
             f"{'value':>9}{'others':>8}"]
    for row in results["rows"]:
        ms, ratio = row["milliseconds"], row["ours_over_it"]
        lines.append(f"{row['library']:17}{ms['median']:8.1f}{ms['min']:8.1f}{ms['max']:8.1f}{ratio['median']:8.1f}"
                     f"{ratio['min']:6.1f}{ratio['max']:6.1f}{row['cpu_milliseconds']['median']:8.1f}"
                     f"{row['ours_over_it_in_cpu']['median']:8.1f}{row['value']:9.4f}{row['others']:8.2f}")
    return "\n".join([*lines, "", "`ours x`: how many times faster ours is, by turns, in wall time, then in processor "
                      "time (PyTorch's", "holds the waiting of its threads for one another, long on a busy machine: "
                      "compare with --threads 1).", "`others`: share of the processors that other work took.", "",
                      DIFFERENCES])


def main():
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES[1:], choices=LIBRARIES[1:])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10, help="of one turn, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    context, workers, processes = multiprocessing.get_context("spawn"), {}, []
    for library in ("ours", *options.libraries):
        workers[library], end = context.Pipe()
        processes.append(context.Process(target=serve, args=(end, library, options.threads), daemon=True))
        processes[-1].start()
        end.close()  # so that the death of a process ends this one
    rows = measure(workers, options.repeats, options.calls)
    for pipe in workers.values():
        pipe.send(None)
    packages = ["jax", *(("torch", "POT") if "POT" in options.libraries else ())]
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": options.threads, "repeats": options.repeats,
               "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
               "size": SIZE, "dimension": DIMENSION, "projections": PROJECTIONS,
               "differences": DIFFERENCES.replace("\n", " "), "rows": rows}
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
