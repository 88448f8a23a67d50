"""A training step of sparse autoencoders: ours against SAELens and dictionary_learning, and where gathering pays.

    PYTHONPATH=. python experiments/bench/sparse.py               # needs torch, sae-lens and dictionary-learning
    PYTHONPATH=. python experiments/bench/sparse.py --crossover   # ours alone: gathered against dense products

TopK and BatchTopK, d = 512, 8,192 atoms, k = 32, batches of 2,048 vectors, float32: forward, backward, Adam, and where
a library has it unit norm. Ours is the system `sparse.dictionary` by config, several steps in one `lax.scan` on a
state that is donated, as the training loop runs it. Peak memory is that of a process of its own. See `DIFFERENCES`,
which is printed, and `paired.py` for how turns are taken.
"""

import argparse
import ctypes
import functools
import gc
import importlib.util
import json
import platform
import resource
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from experiments.bench import paired
from experiments.bench.train import _cpu, _spread

WIDTH, ATOMS, K, BATCH, RATE = 512, 8192, 32, 2048, 1e-3
STEPS = 4  # of ours in one call
KS = (32, 64, 128, 256, 512, 1024)
RESULTS = Path(__file__).with_name("results") / "sparse.json"
CASES = ("topk", "batch_topk")
PEERS = {"dictionary_learning": "dictionary_learning", "SAELens": "sae_lens", "SAELens, sparse": "sae_lens"}
DIFFERENCES = """\
All in every step: gradients of encoder, decoder and both biases, Adam, the counters of how long atoms have been silent;
no AuxK term, for no atom is dead. Ours: also the gradient's norm, L0 and the share of dead atoms; gradients across the
atoms, atoms of norm one. dictionary_learning: gradients across the atoms, clipped by their norm, atoms of norm one,
and the loss as a number. SAELens: gradients clipped by their norm, pre-activations times the atoms' norms in place of
norm one (`rescale_acts_by_decoder_norm`, its default); `sparse` has `use_sparse_activations` (TopK alone), whose
gradients PyTorch has on a processor without that factor alone. Memory:
`peak` is the highest resident set of a process less that after its imports, the data and a first small product with
its gradient, our compilation included; `steps` that of steps after the first call, when freed memory was given back.
`state` is the parameters and Adam's moments, which all of them hold."""


def vectors() -> np.ndarray:
    """Sparse sums of random directions, `[8 n d]`: 8 batches."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(2 * WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5

    def batch():
        codes = rng.exponential(size=(BATCH, 2 * WIDTH)) * (rng.random((BATCH, 2 * WIDTH)) < 0.03)
        return codes.astype(np.float32) @ atoms

    return np.stack([batch() for _ in range(8)])


def _peak() -> float:
    """Highest resident set so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident() -> float:
    """The resident set, in megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def build(case: str, library: str):
    """`(call, steps in a call, facts)`: see `paired.by_turns`; the value is the share of variance not explained."""
    make = _ours if library == "ours" else _dictionary_learning if library == "dictionary_learning" else _saelens
    x = vectors()
    variance = float(np.square(x - x.mean((0, 1))).sum(-1).mean())
    step, each, before = make(case, library, x)

    def call(seed):
        return step(seed) / variance, None

    call(0)
    whole = _peak()
    _forget_peak()
    for seed in range(1, 1 + 4 // each):
        call(seed)
    steps = _peak()
    return call, each, {"peak_megabytes": round(max(whole, steps) - before), "steps_megabytes": round(steps - before)}


def _forget_peak() -> None:
    """Gives freed memory back to the system, and counts the highest resident set anew (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _ours(case, library, x):
    import jax
    import jax.numpy as jnp

    from jaxae.systems.sparse import dictionary
    from jaxae.train.config import base

    config = base()
    config.model = dictionary.defaults()
    config.model.update(dict(atoms=ATOMS, k=K, sparsifier=case, auxk=0.0, error="sum", offset="zero"))
    config.optim.update(dict(learning_rate=RATE, average=0.0))
    config.batch_size = BATCH
    data = [jnp.asarray(part) for part in x.reshape(8 // STEPS, STEPS, BATCH, WIDTH)]
    small = jax.jit(jax.grad(lambda a: jnp.square(a @ a.T).sum()))(data[0][0, :WIDTH])
    before = (jax.block_until_ready(small), _resident())[1]
    system = dictionary.build(config, {"x": data[0][0]})
    state = jax.jit(system.init)(jax.random.key(0), {"x": data[0][0]})

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, x, key):
        def one(state, part):
            state, metrics = system.step(state, {"x": part[0]}, jax.random.fold_in(key, part[1]))
            return state, metrics["loss"]

        return jax.lax.scan(one, state, (x, jnp.arange(STEPS)))

    def step(seed):
        nonlocal state
        state, losses = run(state, data[seed % len(data)], jax.random.key(seed))
        return float(losses[-1])

    return step, STEPS, before


def _dictionary_learning(case, library, x):
    import torch
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    torch.set_num_threads(_threads())
    before = _warm(x)
    trainer = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer}[case](
        steps=1_000_000, activation_dim=WIDTH, dict_size=ATOMS, k=K, layer=0, lm_name="none", lr=RATE, warmup_steps=1,
        threshold_start_step=0, device="cpu", seed=0)
    data = [torch.from_numpy(part) for part in x]
    return lambda seed: trainer.update(seed + 1, data[seed % len(data)]), 1, before


def _saelens(case, library, x):
    import torch
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.set_num_threads(_threads())
    torch.manual_seed(0)
    before = _warm(x)
    model, settings = {"topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
                       "batch_topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig)}[case]
    sparse = library.endswith("sparse")
    sae = model(settings(d_in=WIDTH, d_sae=ATOMS, k=K, use_sparse_activations=sparse,
                         rescale_acts_by_decoder_norm=not sparse))
    optimizer = torch.optim.Adam(sae.parameters(), lr=RATE)
    data = [torch.from_numpy(part) for part in x]
    silent, frequency, dead = torch.zeros(ATOMS), torch.zeros(ATOMS), torch.zeros(ATOMS, dtype=torch.bool)
    sae.train()

    def step(seed):
        """What `SAETrainer._train_step` does."""
        out = sae.training_forward_pass(TrainStepInput(sae_in=data[seed % len(data)], coefficients={},
                                                       dead_neuron_mask=dead, n_training_steps=seed,
                                                       is_logging_step=False))
        with torch.no_grad():
            fires = out.feature_acts.bool().float()
            fired = fires.sum(-2).bool()
            fired = fired.to_dense() if fired.is_sparse else fired
            silent.add_(1)
            silent[fired] = 0
            frequency.add_(fires.sum(0).to_dense() if fires.is_sparse else fires.sum(0))
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return out.loss.item()

    return step, 1, before


def _warm(x) -> float:
    """Megabytes after a first small product and its gradient."""
    import torch

    a = torch.from_numpy(x[0, :WIDTH].copy()).requires_grad_()
    torch.square(a @ a.T).sum().backward()
    return _resident()


def _threads() -> int:
    import os

    return int(os.environ["OMP_NUM_THREADS"])


def crossover(repeats: int) -> list[dict]:
    """Seconds of gathered and of dense products, forward and backward, by values and atoms, for several k."""
    import jax
    import jax.numpy as jnp

    from jaxae.sae.codes import Codes, decode

    keys = jax.random.split(jax.random.key(0), 3)
    atoms, y = jax.random.normal(keys[0], (ATOMS, WIDTH)), jax.random.normal(keys[1], (BATCH, WIDTH))
    rows = []

    @functools.partial(jax.jit, static_argnums=3)
    def slopes(values, indices, atoms, sparse):
        def loss(values, atoms):
            return jnp.square(y - decode(Codes(values, indices), atoms, sparse)).sum()
        return jax.grad(loss, (0, 1))(values, atoms)

    for k in KS:
        values, indices = jax.lax.top_k(jax.random.normal(keys[2], (BATCH, ATOMS)), k)
        times = {True: [], False: []}
        for turn in range(repeats + 1):
            for sparse, taken in times.items():
                start, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(slopes(values, indices, atoms, sparse))
                if turn:  # the first compiles
                    taken.append((time.perf_counter() - start, time.process_time() - cpu))
        wall, cpu = ([dense[i] / gathered[i] for gathered, dense in zip(times[True], times[False], strict=True)]
                     for i in range(2))
        rows.append({"k": k, "atoms_over_k": ATOMS // k, "dense_over_gathered": _spread(wall),
                     "dense_over_gathered_in_cpu": _spread(cpu),
                     "gathered_milliseconds": _spread([1e3 * t[0] for t in times[True]]),
                     "dense_milliseconds": _spread([1e3 * t[0] for t in times[False]])})
        print(f"k {k:5}  atoms / k {ATOMS // k:4}  dense over gathered {rows[-1]['dense_over_gathered']['median']:7.2f}"
              f"  in processor time {rows[-1]['dense_over_gathered_in_cpu']['median']:7.2f}", flush=True)
    return rows


def memory(rows: list[dict]) -> str:
    """Peak memory for people."""
    state = 3 * 4 * (2 * ATOMS * WIDTH + ATOMS + WIDTH) / 2**20
    lines = [f"{'library':26}{'peak MB':>9}{'ours x':>8}{'steps MB':>10}{'ours x':>8}   (state: {state:.0f} MB)"]
    for row in rows:
        peak, steps = ((row[name], row[name] / rows[0][name]) for name in ("peak_megabytes", "steps_megabytes"))
        lines.append(f"{row['library']:26}{peak[0]:9.0f}{peak[1]:8.2f}{steps[0]:10.0f}{steps[1]:8.2f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--libraries", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--crossover", action="store_true", help="gathered against dense products alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4, help="steps of one turn, of which the median counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON; what other modes wrote is kept")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    setting = {"date": date.today().isoformat(), "cpu": _cpu(), "repeats": options.repeats}
    if options.crossover:
        versions = {"python": platform.python_version(), "jax": version("jax")}
        results["crossover"] = setting | {"versions": versions, "rows": crossover(options.repeats)}
    else:
        absent = sorted({PEERS[name] for name in options.libraries if importlib.util.find_spec(PEERS[name]) is None})
        if absent:
            raise SystemExit(f"not installed: {', '.join(absent)}. pip install torch sae-lens dictionary-learning, or "
                             f"choose with --libraries")
        names = ["jax", *(["torch"] if options.libraries else ()),
                 *sorted({PEERS[name].replace("_", "-") for name in options.libraries})]
        versions = {"python": platform.python_version()} | {name: version(name) for name in names}
        print(f"{setting['cpu']}, {options.threads} threads, float32, d = {WIDTH}, {ATOMS} atoms, k = {K}, batches of "
              f"{BATCH}, {setting['date']}, " + ", ".join(f"{k} {v}" for k, v in versions.items()))
        for case in options.cases:
            libraries = [name for name in options.libraries if not (case != "topk" and name.endswith("sparse"))]
            rows = paired.by_turns(functools.partial(build, case), ("ours", *libraries), options.repeats,
                                   options.calls, options.threads)
            for row in rows:
                row["vectors_per_second"] = _spread([1e3 * BATCH / ms for ms in row["milliseconds"].values()])
            results[case] = setting | {"threads": options.threads, "versions": versions, "width": WIDTH, "atoms": ATOMS,
                                       "k": K, "batch": BATCH, "differences": DIFFERENCES.replace("\n", " "),
                                       "rows": rows}
            print(f"\n{case}\n{paired.table(rows)}\n\n{memory(rows)}", flush=True)
        print("\n" + DIFFERENCES)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
