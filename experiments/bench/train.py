"""Images a second of the whole training loop: ours against PyTorch, on one machine in one run.

    PYTHONPATH=. python experiments/bench/train.py    # both models, all loops; 15 minutes on 2 cores
    PYTHONPATH=. python experiments/bench/train.py --cases mlp --loops pythae bare

Needs the extra `parity`. Two variational autoencoders on the embedded digits in grey (4,000 of 28x28, the same for
all), float32, Adam: `mlp` (784-512-16) and `conv` (pythae's MNIST benchmark network). Each library lives in its own
process on the same cores; they take turns, and one idles while the other trains. The first steps of each, with
compilation, are timed apart. Every turn also times a 2048x2048 matrix product, so that the share of the machine's
rate holds on a busy machine.

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
from typing import NamedTuple

import numpy as np

BATCH, LATENT, RATE, SIDE = 100, 16, 1e-3, 2048
RESULTS = Path(__file__).with_name("results") / "train.json"
STEPS = {"mlp": 800, "conv": 8}  # of one turn
OURS = {"mlp": {"ours": {}, "ours, binarised": {"data.binarize": "dynamic"}},
        "conv": {"ours": {}, "ours, group norm": {"model.norm": True}}}
DIFFERENCES = """\
Ours in every step and theirs not: the gradient's norm, the bound, its two parts and bits per dimension, a check that
loss and gradient are finite; `ours, binarised` also draws binary images anew. All means reach the host as training
goes. pythae in every step: its data loader and one loss; at every epoch a copy of the best model; the bare loops
report nothing. conv: theirs has batch normalisation after six layers; `ours, group norm` has a group normalisation
there, `ours` none."""


class Macs(NamedTuple):
    """Multiply-adds of one layer's forward pass for one image."""

    textbook: int  # output pixels x taps, padding and cropped pixels included: what a library is said to do
    useful: int  # without products with padding and into cropped pixels: what has to be done


def dense(inputs: int, outputs: int) -> Macs:
    return Macs(inputs * outputs, inputs * outputs)


def conv(n: int, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> Macs:
    """A square convolution of `n` x `n` pixels."""
    return _pixels(n, (n + 2 * padding - kernel) // stride + 1, inputs * outputs, kernel, stride, padding)


def conv_transpose(m: int, inputs: int, outputs: int, kernel: int, stride: int, padding: int, extra: int) -> Macs:
    """A square transposed convolution of `m` x `m` pixels with `extra` output padding."""
    return _pixels((m - 1) * stride + kernel - 2 * padding + extra, m, inputs * outputs, kernel, stride, padding)


def _pixels(fine, coarse, products, kernel, stride, padding):
    live = sum(0 <= i * stride + t - padding < fine for i in range(coarse) for t in range(kernel))
    return Macs((coarse * kernel) ** 2 * products, live**2 * products)


LAYERS = {
    "mlp": [dense(784, 512), dense(512, 2 * LATENT), dense(LATENT, 512), dense(512, 784)],
    "conv": [conv(28, 1, 128, 4, 2, 1), conv(14, 128, 256, 4, 2, 1), conv(7, 256, 512, 4, 2, 1),
             conv(3, 512, 1024, 4, 2, 1), dense(1024, 2 * LATENT), dense(LATENT, 4 * 4 * 1024),
             conv_transpose(4, 1024, 512, 3, 2, 1, 0), conv_transpose(7, 512, 256, 3, 2, 1, 1),
             conv_transpose(14, 256, 1, 3, 2, 1, 1)],
}


def step_flops(layers: list[Macs]) -> Macs:
    """FLOP of a training step for one image: forward and both gradients, no gradient for the images."""
    return Macs(*(2 * (3 * sum(macs) - macs[0]) for macs in zip(*layers, strict=True)))


def build(case: str, loop: str, num_train: int = 0, batch: int = BATCH):
    """Our run, `advance(steps) -> seconds`, by the loop that `train` and `fit` use; its state lives on."""
    import jax

    from jaxae import data
    from jaxae.systems.gaussian import vae
    from jaxae.train import feed, sharding
    from jaxae.train.config import base
    from jaxae.train.loop import _loop  # the loop itself, without the files of a workdir
    from jaxae.train.setup import program_of

    config = base()
    config.system, config.model, config.batch_size = "gaussian.vae", vae.defaults(), batch
    config.model.update(dict(network={"mlp": "mlp", "conv": "mnist_conv"}[case], latent=LATENT))
    config.data.num_train = num_train
    config.update_from_flattened_dict(OURS[case][loop])
    config.optim.learning_rate = RATE
    dataset = data.load(config.data)
    program, _ = program_of(config, dataset, sharding.make_mesh(config.mesh))
    run = feed.resident(program, dataset.train, batch, (config.seed,), False, config.log_every)
    state, done, rows = program.spread(program.init()), 0, []

    def metrics(first, stop, totals):
        sums = [program.fetch(t).sums for t in totals]
        rows.append({name: sum(s[name] for s in sums) / (stop - first) for name in sums[0]})

    def advance(steps: int) -> float:
        nonlocal state, done
        start = time.perf_counter()
        done, state = _loop(run, state, done, done + steps, (config.log_every,), metrics,
                            lambda step, placed, stopping: placed, None)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    advance.rows = rows
    return advance


def matmul(n: int):
    """A function that multiplies two `[n n]` float32 matrices once and returns its seconds."""
    import jax

    a, product = jax.random.normal(jax.random.key(0), (n, n)), jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))

    def once():
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        return time.perf_counter() - start

    return once


def serve(pipe, library: str, threads: int) -> None:
    """A library's process: builds runs and advances them, one request at a time."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    if library == "jax":
        import jax

        product, versions = matmul(SIDE), {"jax": jax.__version__}
    else:
        import torch

        from experiments.bench import peers_train as peers

        torch.set_num_threads(threads)
        product, versions = peers.matmul(SIDE), peers.versions()
    runs = {}
    pipe.send(versions)
    while (request := pipe.recv()) is not None:
        case, loop, steps = request
        start = time.perf_counter()
        if (case, loop) not in runs:
            if library == "torch":
                from jaxae import data

                x = data.load({"source": "digits"}).train.arrays()["x"].astype(np.float32) / 255
                runs[case, loop] = peers.build(case, loop, x, BATCH, RATE, LATENT)
            else:
                runs[case, loop] = build(case, loop)
            runs[case, loop](1)
            pipe.send({"first": time.perf_counter() - start})
            continue
        times = [product() for _ in range(2)]
        cpu = time.process_time()
        seconds = runs[case, loop](steps)
        cpu = time.process_time() - cpu
        times += [product() for _ in range(2)]
        pipe.send({"seconds": seconds, "cpu": cpu, "rate": 2 * SIDE**3 / min(times)})


def _busy() -> float:
    """Seconds that all processors have been busy since the machine started."""
    user, nice, system, *_ = (int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def measure(case: str, loops: list[str], workers, steps: int, repeats: int) -> list[dict]:
    """Turns of every loop in order, `repeats` times: a row of numbers for each."""
    def ask(loop, steps):
        pipe = workers["jax" if loop.startswith("ours") else "torch"]
        pipe.send((case, loop, steps))
        return pipe.recv()

    rows = [{"case": case, "loop": loop, "first_seconds": ask(loop, 1)["first"], "turns": []} for loop in loops]
    for row in rows:
        ask(row["loop"], steps if case == "mlp" else 1)  # warm caches and allocators
    for _ in range(repeats):
        for row in rows:
            busy, start = _busy(), time.perf_counter()
            turn = ask(row["loop"], steps)
            whole = time.perf_counter() - start
            # The matrix products of the turn are ours too: they keep all threads busy.
            own = turn.pop("cpu") + (whole - turn["seconds"]) * os.cpu_count()
            turn["others"] = max(0.0, (_busy() - busy - own) / whole / os.cpu_count())
            row["turns"].append(turn)
    flops = step_flops(LAYERS[case])
    for row in rows:
        images = [steps * BATCH / turn["seconds"] for turn in row["turns"]]
        rates = [max(other["turns"][i]["rate"] for other in rows) for i in range(repeats)]
        row |= {"images_per_second": _spread(images),
                "share": _spread([n * flops.textbook / rate for n, rate in zip(images, rates, strict=True)]),
                "useful_share": _spread([n * flops.useful / rate for n, rate in zip(images, rates, strict=True)]),
                "others": float(np.median([turn["others"] for turn in row["turns"]])),
                "matmul": _spread([turn["rate"] / 1e9 for turn in row["turns"]])}
    ours = rows[0]["turns"]
    for row in rows:
        row["ours_over_it"] = _spread([turn["seconds"] / mine["seconds"]
                                       for turn, mine in zip(row.pop("turns"), ours, strict=True)])
    return rows


def _spread(values) -> dict[str, float]:
    return {"median": _round(np.median(values)), "min": _round(min(values)), "max": _round(max(values))}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def table(results: dict) -> str:
    """The results for people."""
    lines = [f"{results['cpu']}, {results['threads']} threads, float32, batch {BATCH}, {results['date']}, "
             + ", ".join(f"{k} {v}" for k, v in results["versions"].items()), "",
             f"{'model':6}{'loop':17}{'images/s':>9}{'min':>8}{'max':>8}{'ours x':>8}{'min':>6}{'max':>6}"
             f"{'share':>7}{'useful':>8}{'matmul GFLOP/s':>16}{'first s':>9}{'others':>8}"]
    for row in results["rows"]:
        n, ratio = row["images_per_second"], row["ours_over_it"]
        lines.append(f"{row['case']:6}{row['loop']:17}{n['median']:9.0f}{n['min']:8.0f}{n['max']:8.0f}"
                     f"{ratio['median']:8.2f}{ratio['min']:6.2f}{ratio['max']:6.2f}{row['share']['median']:7.2f}"
                     f"{row['useful_share']['median']:8.2f}{row['matmul']['median']:16.0f}"
                     f"{row['first_seconds']:9.1f}{row['others']:8.2f}")
    flops = "; ".join(f"{case} {v['textbook'] / 1e9:.4f} GFLOP an image a step, {v['useful'] / 1e9:.4f} without "
                      f"padding and crops" for case, v in results["flops"].items())
    return "\n".join([*lines, "", flops, "`ours x`: how many times faster ours is, by turns. `share`: of the faster of "
                      "both libraries' rates of a 2048x2048", "product in that turn. `first`: build, compile and one "
                      "step. `others`: share of the processors that other work took.", "", DIFFERENCES])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--loops", nargs="+", default=["pythae", "bare", "fused", "compiled"],
                        choices=["pythae", "bare", "fused", "compiled"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="of one turn; 0 is 800 for mlp and 8 for conv")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    context, workers, versions, processes = multiprocessing.get_context("spawn"), {}, {}, []
    for library in ("jax", "torch"):
        workers[library], end = context.Pipe()
        processes.append(context.Process(target=serve, args=(end, library, options.threads), daemon=True))
        processes[-1].start()
        end.close()  # so that the death of a process ends this one
        versions |= workers[library].recv()
    rows = []
    for case in options.cases:
        rows += measure(case, [*OURS[case], *options.loops], workers, options.steps or STEPS[case], options.repeats)
    for pipe in workers.values():
        pipe.send(None)
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": options.threads, "repeats": options.repeats,
               "versions": {"python": platform.python_version()} | versions, "batch": BATCH,
               "flops": {case: step_flops(LAYERS[case])._asdict() for case in options.cases},
               "differences": DIFFERENCES.replace("\n", " "), "rows": rows}
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def _cpu() -> str:
    """The class of the processor."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    return model + (" (AVX-512)" if "avx512f" in info else " (AVX2)" if "avx2" in info else "")


if __name__ == "__main__":
    main()
