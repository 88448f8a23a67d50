"""Entropic transport, value and gradient by the cost matrix: ours against POT and ott-jax, on one machine in one run.

    PYTHONPATH=. python experiments/bench/sinkhorn.py    # 2 minutes on 2 cores; needs POT and ott-jax

1,024 x 1,024 squared distances between Gaussian clouds, equal weights, epsilon 0.1 of the mean cost, float32, to a
marginal error of 1e-4: |row sums - a|_1 + |column sums - b|_1 of the gradient, which is the plan. Each library lives
in its own process on the same cores; they take turns, in another order each time, and idle while another works.

What differs: see `DIFFERENCES`, which is printed.
"""

import argparse
import json
import platform
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

from experiments.bench import paired
from experiments.bench.train import _cpu

SIZE, TOLERANCE, LIMIT = 1024, 1e-4, 400
RESULTS = Path(__file__).with_name("results") / "sinkhorn.json"
DIMENSIONS = {"2-D": 2, "16-D": 16}
LIBRARIES = ("ours", "ott", "ott, kernel", "POT", "POT, log")
DIFFERENCES = """\
Ours stops by itself, looking at the error in every step, and its steps are over-relaxed; the others are given the
smallest number of steps that reaches the tolerance, found beforehand, and look at the error once (ott) or every ten
steps (POT). `ott` works with log-sum-exp, its default, `ott, kernel` and `POT` with exp(-C / epsilon) as it is.
POT has no autodiff here: its plan is its gradient, and its value leaves out the KL divergence."""


def costs(dimension: int) -> tuple[np.ndarray, float]:
    """The cost matrix and epsilon."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SIZE, dimension)), 0.7 * rng.normal(size=(SIZE, dimension)) + 0.5
    cost = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return cost.astype(np.float32), 0.1 * float(cost.mean())


def solver_of(library: str, cost: np.ndarray, epsilon: float, steps: int):
    """`call() -> (value, plan, steps made)` with at most `steps` steps."""
    if library.startswith("POT"):
        import ot

        method, weights = {"POT": "sinkhorn", "POT, log": "sinkhorn_log"}[library], np.full(SIZE, 1 / SIZE, np.float32)

        def pot():
            plan = ot.sinkhorn(weights, weights, cost, epsilon, method, numItermax=steps, stopThr=0.0, warn=False)
            return (plan * cost).sum(), plan, steps

        return pot

    import jax
    import jax.numpy as jnp

    if library == "ours":
        from jaxae.losses.sinkhorn import sinkhorn

        def solve(cost):
            found = sinkhorn(cost, epsilon, tolerance=TOLERANCE)
            return found.value, found.iterations
    else:
        from ott.geometry import geometry
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

        solver = sinkhorn.Sinkhorn(lse_mode=library == "ott", threshold=TOLERANCE, inner_iterations=steps,
                                   max_iterations=steps)

        def solve(cost):
            problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=epsilon))
            found = solver(problem)
            return found.reg_ot_cost, found.n_iters

    compiled, cost = jax.jit(jax.value_and_grad(solve, has_aux=True)), jnp.asarray(cost)

    def call():
        (value, made), plan = jax.block_until_ready(compiled(cost))
        return value, plan, made

    return call


def error_of(plan) -> float:
    plan = np.asarray(plan, np.float64)
    return float(sum(np.abs(plan.sum(i) - 1 / SIZE).sum() for i in (0, 1)))


def fewest(library: str, cost, epsilon: float) -> int:
    """The smallest number of steps after which the marginal error is within the tolerance."""
    low, high = 0, LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        reached = error_of(solver_of(library, cost, epsilon, middle)()[1]) <= TOLERANCE
        low, high = (low, middle) if reached else (middle, high)
    return high


def build(case: str, library: str):
    """A call for `paired.by_turns`, with the steps that it makes and the error that it leaves."""
    cost, epsilon = costs(DIMENSIONS[case])
    call = solver_of(library, cost, epsilon, LIMIT if library == "ours" else fewest(library, cost, epsilon))
    _, plan, steps = call()
    return lambda seed: call(), 1, {"steps": int(steps), "marginal_error": error_of(plan)}


def table(results: dict) -> str:
    """The results for people."""
    lines = [f"{results['cpu']}, {results['threads']} threads, float32, {SIZE} x {SIZE}, {results['date']}, "
             + ", ".join(f"{k} {v}" for k, v in results["versions"].items()), "",
             f"{'case':6}{'library':13}{'ms':>8}{'min':>8}{'max':>8}{'ours x':>8}{'min':>6}{'max':>6}{'steps':>7}"
             f"{'error':>9}{'value':>9}{'others':>8}"]
    for row in results["rows"]:
        ms, ratio = row["milliseconds"], row["ours_over_it"]
        lines.append(f"{row['case']:6}{row['library']:13}{ms['median']:8.1f}{ms['min']:8.1f}{ms['max']:8.1f}"
                     f"{ratio['median']:8.1f}{ratio['min']:6.1f}{ratio['max']:6.1f}{row['steps']:7d}"
                     f"{row['marginal_error']:9.1e}{row['value']:9.4f}{row['others']:8.2f}")
    return "\n".join([*lines, "", "`ours x`: how many times faster ours is, by turns. `others`: share of the "
                      "processors that other work took.", "", DIFFERENCES])


def main():
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(DIMENSIONS), choices=list(DIMENSIONS))
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES[1:], choices=LIBRARIES[1:])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="of one turn, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()
    libraries = ("ours", *options.libraries)
    rows = [{"case": case} | row for case in options.cases for row in paired.by_turns(
        partial(build, case), libraries, options.repeats, options.calls, options.threads)]
    results = {"date": date.today().isoformat(), "cpu": _cpu(), "threads": options.threads, "repeats": options.repeats,
               "versions": {"python": platform.python_version()} | {p: version(p) for p in ("jax", "ott-jax", "POT")},
               "size": SIZE, "tolerance": TOLERANCE, "differences": DIFFERENCES.replace("\n", " "), "rows": rows}
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
