"""Timing of libraries by turns: each lives in its own process on the same cores, one works while the others idle."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from experiments.bench.train import _busy, _spread


def by_turns(build: Callable, libraries: Sequence[str], repeats: int, calls: int, threads: int) -> list[dict]:
    """A row of numbers for each library; the first is the one that the others are compared with.

    Args:
      build: `library -> (call, each)`, a function of a module or a `partial` of one: `call(seed) -> (value, ...)`,
        which stands for `each` calls in one. A third member, a dict, becomes part of the library's row.
      libraries: their names.
      repeats: turns of each library.
      calls: of one turn, of which the median counts.
      threads: cores of each process.

    Returns:
      For each library `value` (mean of five calls), `milliseconds` and `cpu_milliseconds` of a call, `ours_over_it` and
      `ours_over_it_in_cpu` (its time over the first library's in the same round), each with median, min and max over
      turns, and `others`: the share of the processors that other work took.
    """
    context, workers, processes = multiprocessing.get_context("spawn"), {}, []
    for library in libraries:
        workers[library], end = context.Pipe()
        processes.append(context.Process(target=_serve, args=(end, build, library, threads), daemon=True))
        processes[-1].start()
        end.close()  # so that the death of a process ends this one
    rows = _measure(workers, repeats, calls)
    for pipe in workers.values():
        pipe.send(None)
    return rows


def _serve(pipe, build: Callable, library: str, threads: int) -> None:
    """A library's process: builds, then answers with the seconds of a call."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    (call, each, *facts), seed = build(library), 0
    pipe.send({"value": float(np.mean([call(seed)[0] for seed in range(5)]))} | (facts[0] if facts else {}))
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


def _measure(workers: dict, repeats: int, calls: int) -> list[dict]:
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


def table(rows: list[dict]) -> str:
    """The rows for people."""
    lines = [f"{'library':26}{'ms':>8}{'min':>8}{'max':>8}{'ours x':>8}{'min':>6}{'max':>6}{'cpu ms':>8}{'ours x':>8}"
             f"{'value':>9}{'others':>8}"]
    for row in rows:
        ms, ratio = row["milliseconds"], row["ours_over_it"]
        lines.append(f"{row['library']:26}{ms['median']:8.1f}{ms['min']:8.1f}{ms['max']:8.1f}{ratio['median']:8.1f}"
                     f"{ratio['min']:6.1f}{ratio['max']:6.1f}{row['cpu_milliseconds']['median']:8.1f}"
                     f"{row['ours_over_it_in_cpu']['median']:8.1f}{row['value']:9.4f}{row['others']:8.2f}")
    return "\n".join([*lines, "", "`ours x`: how many times faster ours is, by turns, in wall time, then in processor "
                      "time (PyTorch's", "holds the waiting of its threads for one another, long on a busy machine: "
                      "compare with --threads 1).", "`others`: share of the processors that other work took."])
