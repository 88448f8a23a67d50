"""Claims of bias adaptation: sparsity by frequencies, on planted dictionaries."""

import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.sparse import learned, planted
from claims.structured import codes_of
from claims.training import mean_sd
from jaxae.metrics.dictionaries import cross_seed_consistency, max_cosine
from jaxae.metrics.sparse_codes import latent_zscore
from jaxae.sae.bias_adaptation import geometric_targets, group_of

FREQUENCY = 3 / 64  # of every planted atom
TIED = dict(encoder="tied", decoder="scaled", sparsifier="relu", center=False, offset="zero", error="sum", atoms=128)
ADAPTED = dict(TIED, bias="adapted", input="unit", adapt_every=20, target=0.1)


def recovered(run, dataset) -> np.ndarray:
    """Of each member: mean over the true atoms of the largest cosine with a learned one."""
    truth = jnp.asarray(dataset.train.info["atoms"])
    return np.array([float(max_cosine(truth, member.params["decoder"]).mean()) for member in run.members])


@claim(paper="P074", budget=300, threshold={"cosine": 0.93, "change": 0.02},
       sentence="with one set of constants, biases that follow a target of twice the true frequency let atoms find the "
                "planted ones in 32 and 64 dimensions (mean largest cosine at least 0.93), whatever the scale of the "
                "data, by which a fixed L1 weight loses more than 0.02")
def biases_recover_planted_atoms(threshold):
    """128 atoms for 64 planted, 3 active; target 0.1, 3,000 updates of 512, two seeds in 32 dimensions, else one.

    The L1 weight is the best of three at scale 1, of the same architecture with learned biases. `inside`: an offset
    that is learned and subtracted from the encoder's inputs, which acts as a bias that no rule holds.
    """
    data = {"32": planted(), "64": planted(atom_dim=64), "scaled": planted(low=1.5, high=4.5)}
    runs = {name: learned(dataset, 3000, seeds=1 + (name == "32"), **ADAPTED) for name, dataset in data.items()}
    cosine = {name: recovered(run, data[name]) for name, run in runs.items()}
    run, weights = runs["32"], (0.2, 0.5, 1.0)
    first, second = (member.params["decoder"] for member in run.members)
    codes = codes_of(run, run.members[0], data["32"])
    selective = (latent_zscore(codes) > jnp.median(latent_zscore(codes))) & (codes.max(0) > 0)
    inside = learned(data["32"], 3000, **ADAPTED | dict(center=True, offset="mean"))
    penalised = {name: recovered(learned(data[name], 3000, sweep=(("model.l1", weights),), sparsity_warmup=400, **TIED),
                                 data[name]) for name in ("32", "scaled")}
    best = int(penalised["32"].argmax())
    lost = float(penalised["32"][best] - penalised["scaled"][best])
    change = float(np.abs(cosine["scaled"][0] - cosine["32"][0]))
    holds = (min(cosine["32"].min(), cosine["64"].min()) >= threshold["cosine"] and change < threshold["change"]
             and lost > threshold["change"])
    return Outcome(bool(holds), {f"cosine_{name}": mean_sd(v) for name, v in cosine.items()} | {
        "change": change, "l0": mean_sd(run.test["l0"]), "fvu": mean_sd(run.test["fvu"]),
        "consistency": float(cross_seed_consistency(first, [second])),
        "consistency_selective": float(cross_seed_consistency(first, [second], selective)),
        "cosine_inside": float(recovered(inside, data["32"])[0]), "l0_inside": float(inside.test["l0"][0]),
        "l1_weight": weights[best], "l1_cosine": float(penalised["32"][best]), "l1_lost": lost}, (0, 1))


@claim(paper="P074", budget=240, threshold={"ratio": 1.2},
       sentence="the median frequency of each group of atoms is at most 1.2 times its target; of one target for all "
                "atoms, recovery is best at one to about three times the true frequency and falls on both sides")
def atoms_resonate_with_frequencies(threshold):
    """Four groups of 64 atoms, targets from 0.2 down by halves; then 128 atoms with one target of 0.01 to 0.5.

    The true frequency is 0.047, so that 0.05 and 0.1 are within one to three times of it. 3,000 updates of 512.
    """
    dataset = planted()
    grouped = learned(dataset, 3000, **ADAPTED | dict(atoms=256, groups=4, target=0.2))
    often = np.stack([np.asarray((codes_of(grouped, member, dataset) > 0).mean(0)) for member in grouped.members])
    group, wanted = group_of(256, 4), np.asarray(geometric_targets(256, 4, 0.2))[::64]
    ratios = np.array([[np.median(row[group == g]) / wanted[g] for g in range(4)] for row in often])
    targets = (0.01, 0.05, 0.1, 0.3, 0.5)
    single = learned(dataset, 3000, sweep=(("model.target", targets),), **ADAPTED)
    cosine = recovered(single, dataset)
    peak = int(cosine.argmax())
    ordered = peak in (1, 2) and max(cosine[0], cosine[3], cosine[4]) < cosine[peak]
    return Outcome(bool((ratios <= threshold["ratio"]).all() and ordered), {
        "largest_ratio": float(ratios.max()), "ratios": str(np.round(ratios.mean(0), 3).tolist()),
        "cosine_grouped": mean_sd(recovered(grouped, dataset))} | {
        f"cosine_{target:g}": float(c) for target, c in zip(targets, cosine, strict=True)} | {
        f"l0_{target:g}": float(v) for target, v in zip(targets, single.test["l0"], strict=True)})
