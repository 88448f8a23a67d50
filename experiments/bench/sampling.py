"""Sampling codes with and without a cache, and the cost of a sequence's length: softmax against linear attention.

    PYTHONPATH=. python experiments/bench/sampling.py    # 3 minutes on 2 cores

Three tables, float32: 64 maps of 7 x 7 codes from the prior `transformer`, each token computed once on its cache or
everything anew for each token; gradients of one attention layer by its input, for sequences of growing length; one
token of a decoder that has read sequences of growing length. Of the last two a power of the length is fitted.

What differs: see `DIFFERENCES`, which is printed.
"""

import argparse
import json
import os
import platform
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bench.train import _busy, _cpu, _spread
from jaxae.nn.attention import SelfAttention
from jaxae.nn.transformer import Transformer
from jaxae.priors.transformer import transformer

KINDS = ("softmax", "linear")
IMAGES, SHAPE, CODES = 64, (7, 7), 256
NET = dict(width=64, layers=4, heads=4)
LENGTHS = (256, 512, 1024, 2048, 4096)
TOKENS = 32  # of one timed call of the decoder
RESULTS = Path(__file__).with_name("results") / "sampling.json"
DIFFERENCES = """\
The two samplers draw the same codes from the same key. The softmax cache has room for the whole sequence, and each
token reads all of it under a mask: a token of a sequence of N codes costs what the last one costs, so that its time is
given against N. Processor time is what to read on a machine with other work."""


def samplers(kind: str):
    """`call(seed)` with the cache, and without."""
    prior = transformer(SHAPE, CODES, attention=kind, **NET)
    params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, *SHAPE), jnp.int32))

    def call(cache):
        return lambda seed: jax.block_until_ready(prior.sample(params, jax.random.key(seed), IMAGES, cache=cache))

    return call(True), call(False)


def layer(kind: str, length: int):
    """`call(seed)`: the gradient of one causal attention layer, one sequence of 64 channels in 2 heads."""
    net = SelfAttention(heads=2, causal=True, kind=kind)
    x = jax.random.normal(jax.random.key(0), (1, length, 64))
    params = jax.jit(net.init)(jax.random.key(1), x[:, :1])
    step = jax.jit(jax.grad(lambda x: jnp.square(net.apply(params, x)).sum()))
    return lambda seed: jax.block_until_ready(step(x))


def decoder(kind: str, length: int):
    """`call(seed)`: the last tokens of 8 sequences of this length."""
    net = Transformer(CODES, (length,), width=128, layers=2, heads=4, attention=kind)
    x = jax.random.normal(jax.random.key(0), (TOKENS, 8, 1, 128))
    params = jax.jit(lambda: net.init(jax.random.key(1), x[0], net.start(8)))()
    start = net.start(8)._replace(position=jnp.int32(length - TOKENS))
    if kind == "softmax":
        start = start._replace(layers=tuple(c._replace(length=start.position) for c in start.layers))

    @jax.jit
    def run(start):
        def step(cache, token):
            logits, cache = net.apply(params, token, cache)
            return cache, logits[:, 0].sum()
        return lax.scan(step, start, x)[1]

    return lambda seed: jax.block_until_ready(run(start))


def measure(calls: list, repeats: int, calls_each: int = 1) -> list[dict]:
    """Seconds of every call in wall time and in processor time, in turns: a row for each."""
    rows = [dict(key, turns=[], cpu=[]) for key, _ in calls]
    for _, call in calls:
        call(0)
    for repeat in range(repeats):
        for row, (_, call) in zip(rows, calls, strict=True):
            begin, cpu = time.perf_counter(), time.process_time()
            for i in range(calls_each):
                call(1 + repeat * calls_each + i)
            row["turns"].append((time.perf_counter() - begin) / calls_each)
            row["cpu"].append((time.process_time() - cpu) / calls_each)
    return rows


def ratios(rows: list[dict]) -> list[dict]:
    """Seconds of the samplers, and how many times longer it takes without the cache, by turns."""
    out = []
    for cached, anew in zip(rows[::2], rows[1::2], strict=True):
        wall, cpu = ([b / a for a, b in zip(cached[k], anew[k], strict=True)] for k in ("turns", "cpu"))
        out.append({"attention": cached["attention"], "cached_seconds": _spread(cached["turns"]),
                    "anew_seconds": _spread(anew["turns"]), "anew_over_cached": _spread(wall),
                    "anew_over_cached_in_cpu": _spread(cpu)})
    return out


def slopes(rows: list[dict], scale: float) -> list[dict]:
    """Milliseconds by length, the least of all turns, and the power of the length fitted to them."""
    out = []
    for kind in KINDS:
        mine = [row for row in rows if row["attention"] == kind]
        out.append({"attention": kind})
        for key, name in (("turns", ""), ("cpu", "cpu_")):
            least = [scale * min(row[key]) for row in mine]
            power = np.polyfit(np.log([row["length"] for row in mine]), np.log(least), 1)[0]
            by_length = {row["length"]: float(f"{ms:.4g}") for row, ms in zip(mine, least, strict=True)}
            out[-1] |= {f"{name}milliseconds": by_length, f"{name}slope": round(float(power), 3)}
    return out


def table(results: dict) -> str:
    """The results for people."""
    lines = [f"{results['cpu']}, {results['threads']} threads, float32, {results['date']}, "
             + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
             + f"; other work took {results['others']:.2f} of the processors", "",
             f"{IMAGES} maps of {SHAPE[0]} x {SHAPE[1]} codes   with cache, s    anew, s    ratio    min    max"
             "    in processor time"]
    for row in results["sampling"]:
        ratio, cpu = row["anew_over_cached"], row["anew_over_cached_in_cpu"]
        lines.append(f"{row['attention']:25}{row['cached_seconds']['median']:14.3f}{row['anew_seconds']['median']:11.2f}"
                     f"{ratio['median']:9.1f}{ratio['min']:7.1f}{ratio['max']:7.1f}{cpu['median']:21.1f}")
    for name, title in (("training", "gradient of a layer"), ("decoding", "one token of a decoder")):
        lines += ["", f"{title:36}" + "".join(f"{'N=' + str(n):>9}" for n in LENGTHS) + "    slope"]
        for row in results[name]:
            for key, unit in (("", "ms"), ("cpu_", "ms of processors")):
                lines.append(f"{row['attention'] + ', ' + unit:36}"
                             + "".join(f"{ms:9.3f}" for ms in row[f"{key}milliseconds"].values())
                             + f"{row[f'{key}slope']:9.2f}")
    return "\n".join([*lines, "", DIFFERENCES])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    # Before the first computation starts the threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    busy, cpu, begin = _busy(), time.process_time(), time.perf_counter()
    calls = [({"attention": kind, "cache": not i}, call) for kind in KINDS for i, call in enumerate(samplers(kind))]
    sampling = ratios(measure(calls, options.repeats))
    grown = {}
    for name, build, scale, each in (("training", layer, 1e3, 1), ("decoding", decoder, 1e3 / TOKENS, 4)):
        calls = [({"attention": kind, "length": n}, build(kind, n)) for n in LENGTHS for kind in KINDS]
        grown[name] = slopes(measure(calls, options.repeats, each), scale)
    whole = time.perf_counter() - begin
    others = max(0.0, (_busy() - busy - (time.process_time() - cpu)) / whole / os.cpu_count())
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": len(os.sched_getaffinity(0)),
               "repeats": options.repeats, "versions": {"python": platform.python_version(), "jax": version("jax")},
               "images": IMAGES, "shape": SHAPE, "codes": CODES, "net": NET, "others": round(others, 3),
               "differences": DIFFERENCES.replace("\n", " "), "sampling": sampling} | grown
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
