"""Claims on matching pursuit as the encoder of a sparse autoencoder, on features in a tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.nested import fvu_curve
from claims.sparse import cosines
from claims.training import config_of, mean_sd, over, trained
from jaxae import data, sae
from jaxae.metrics.dictionaries import match_atoms
from jaxae.systems.sparse import dictionary

_SEEDS = 3


def brute_force(x: np.ndarray, atoms: np.ndarray, steps: int):
    """Matching pursuit of each example by itself in float64: indices and values `[n t]`."""
    indices, values = np.zeros((len(x), steps), int), np.zeros((len(x), steps))
    for i, residual in enumerate(np.float64(x)):
        for t in range(steps):
            found = np.float64(atoms) @ residual
            indices[i, t] = found.argmax()
            values[i, t] = max(found.max(), 0.0)
            residual = residual - values[i, t] * np.float64(atoms[indices[i, t]])
    return indices, values


@claim(paper="P016", budget=60, threshold={"orthogonal": 1e-5, "energy": 1e-4, "values": 1e-5, "inverse": 1e-5},
       sentence="each residual is orthogonal to the atom just taken (1e-5) and loses its square (1e-4), so that none "
                "grows; steps are those of a search in numpy; on an orthonormal dictionary as many steps as dimensions "
                "are the exact inverse")
def residuals_are_orthogonal_and_shrink(threshold):
    """200 random examples of norm one in 24 dimensions, 60 random unit atoms, 20 steps; the inverse is signed."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = sae.unit_rows(jax.random.normal(keys[0], (200, 24)))
    atoms, steps = sae.random_atoms(keys[1], 60, 24), 20
    run = jax.jit(sae.matching_pursuit, static_argnums=(2, 3))
    found = run(x, atoms, steps, False)
    residuals = jnp.concatenate([x[:, None], x[:, None] - jnp.cumsum(found.values[..., None] * atoms[found.indices],
                                                                     axis=1)], axis=1)  # [n t+1 d]
    taken = jnp.abs((residuals[:, 1:] * atoms[found.indices]).sum(-1))
    active, energy = found.values > 0, jnp.square(residuals).sum(-1)
    indices, values = brute_force(np.asarray(x), np.asarray(atoms), steps)
    frame = jnp.linalg.qr(jax.random.normal(keys[2], (24, 24)))[0]
    inverse = run(x, frame, 24, True)
    measured = {"orthogonal": float(jnp.where(active, taken, 0.0).max()),
                "energy": float(jnp.abs(energy[:, 1:] - energy[:, :-1] + jnp.square(found.values)).max()),
                "values": float(np.abs(values - found.values).max()),
                "inverse": max(float(jnp.abs(inverse.codes @ frame - x).max()),
                               float(jnp.abs(inverse.codes - x @ frame.T).max()))}
    same = bool(np.all((indices == np.asarray(found.indices)) | (values == 0)))
    grows = float((energy[:, 1:] - energy[:, :-1]).max())
    holds = same and grows <= 1e-6 and all(value < threshold[name] for name, value in measured.items())
    return Outcome(holds, measured | {"same_atoms": same, "largest_growth": grows})


@functools.cache
def tree_runs():
    """The tree, and dictionaries of pursuit and of TopK, 40 atoms and 4 steps each, learned alike."""
    dataset, runs = data.load(dict(source="feature_tree", num_train=50_000)), {}
    for name, model in (("pursuit", dict(sparsifier="pursuit", encoder="none")), ("topk", {})):
        config = config_of(dictionary, 2500, batch_size=256, seeds=_SEEDS, rate=1e-2, atoms=40, k=4, **model)
        config.optim.schedule = "cosine"
        runs[name] = trained(config, dataset)
    return dataset, runs


@claim(paper="P016", budget=240, threshold={"fvu_ratio": 0.75},
       sentence="on features in a tree pursuit leaves under 0.75 of TopK's unexplained variance at the same number of "
                "steps and finds the features better (matched cosine), for each seed")
def pursuit_finds_parents_and_children(threshold):
    """8 parents (probability 0.2) with 4 exclusive children each (0.8), orthogonal to their parent, in 24 dimensions;
    2,500 updates of 256, Adam from 1e-2 falling to 0 (at a constant 3e-3 one seed in three finds the features no better
    than TopK), three seeds. `parents` and `children` are matched cosines of the levels."""
    dataset, runs = tree_runs()
    truth, found = dataset.train.info["atoms"], {}
    for name, run in runs.items():
        matched = [match_atoms(truth, member.params["decoder"]).cosine for member in run.members]
        found |= {f"{name}_fvu": mean_sd(run.test["fvu"]), f"{name}_l0": mean_sd(run.test["l0"]),
                  f"{name}_dead": float(run.test["dead"].mean()), f"{name}_cosine": mean_sd(cosines(run, truth)),
                  f"{name}_parents": mean_sd([m[:8].mean() for m in matched]),
                  f"{name}_children": mean_sd([m[8:].mean() for m in matched])}
    ratios = runs["pursuit"].test["fvu"] / runs["topk"].test["fvu"]
    better = np.array(cosines(runs["pursuit"], truth)) > np.array(cosines(runs["topk"], truth))
    return Outcome(bool(ratios.max() < threshold["fvu_ratio"] and better.all()),
                   found | {"fvu_ratios": str(np.round(ratios, 3).tolist())}, tuple(range(_SEEDS)))


@claim(paper="P016", budget=240, threshold={"pursuit": 0.5, "topk": 0.67},
       sentence="a pursuit learned with 4 steps leaves ever less with 1, 2, 4, 8 and 20 steps, at 20 under half of "
                "what it leaves at 4; TopK with 20 atoms keeps over two thirds of what it leaves at its 4")
def more_steps_go_on_explaining(threshold):
    """The dictionaries of `pursuit_finds_parents_and_children`, means of three seeds; shares of the test variance."""
    dataset, runs = tree_runs()
    steps, x = (1, 2, 4, 8, 20), dataset.test.arrays()["x"]
    variance = np.square(x - x.mean(0)).sum(-1).mean()

    def left(batch):
        def one(member):
            near = batch["x"] - member.params["offset"]
            return jnp.stack([jnp.square(sae.matching_pursuit(near, member.params["decoder"], t).residual).sum(-1)
                              for t in steps], 1)
        return sum(one(member) for member in runs["pursuit"].members) / _SEEDS

    pursuit = over(left, dataset.test, dataset).mean(0) / variance
    topk = np.mean([fvu_curve(member, dataset, steps) for member in runs["topk"].members], axis=0)
    holds = (all(np.diff(pursuit) < 0) and pursuit[4] < threshold["pursuit"] * pursuit[2]
             and topk[4] > threshold["topk"] * topk[2])
    return Outcome(bool(holds), {f"{name}_{t}": float(v) for name, row in (("pursuit", pursuit), ("topk", topk))
                                 for t, v in zip(steps, row, strict=True)}, tuple(range(_SEEDS)))
