"""Claims on predicting codes from coarse to fine, on the codes of digits."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.priors import on_codes
from claims.quantizers import on_digits
from claims.training import digits, mean_sd, over, trained
from jaxae import metrics
from jaxae.priors import cluster_codebook, random_within_cluster

CLUSTERS = 16


def tokenizer(dataset):
    """A VQ-VAE of 14x14 digits with 7x7 codes of K = 256: its system, variables and the clusters of its codebook."""
    run = trained(on_digits(800, 1, 2e-3, codes=256, revive=0.01), dataset)
    system, member = run.system, run.members[0]
    return system, member, cluster_codebook(system.codebook(member), CLUSTERS, jax.random.key(0)).assignment


@claim(paper="P029", budget=60, threshold={"share_at_most": 1 / 3},
       sentence="codes of one cluster stand for one another: replacing every code of a digit by a random one of its "
                "cluster (16 clusters of 256 codes) adds at most a third of the error that random codes add")
def codes_of_a_cluster_are_redundant(threshold):
    """The increase of the test set's mean squared error over that of the codes themselves."""
    dataset = digits()
    system, member, assignment = tokenizer(dataset)

    def errors(batch):
        x = batch["x"]
        codes = system.encode(member, x)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), batch["index"][0]), 2)
        swapped = (codes, random_within_cluster(keys[0], codes, assignment),
                   jax.random.randint(keys[1], codes.shape, 0, 256))
        return jnp.stack([metrics.mse(x, system.decode(member, c)) for c in swapped], 1)

    own, cluster, anything = (float(v) for v in over(errors, dataset.test, dataset).mean(0))
    share = (cluster - own) / (anything - own)
    return Outcome(share <= threshold["share_at_most"],
                   {"share": share, "mse": own, "within_cluster_mse": cluster, "random_mse": anything})


@claim(paper="P029", budget=300, threshold={"frechet_ratio_at_most": 1.0, "time_ratio_below": 1.0},
       sentence="on the codes of digits, with equal parameters and updates, coarse-to-fine samples are no farther from "
                "the data than those of an autoregressive transformer on the codes themselves, and take less time")
def coarse_to_fine_generates(threshold):
    """49 codes of K = 256, four blocks of width 64 against two and two; mean over 2 seeds.

    Frechet distance of 1,000 samples to the test images on the digit classifier's features, all enlarged to 28x28; the
    time is that of 100 samples, compiled, the median of five by turns. Temperature 1.
    """
    dataset, features = digits(), metrics.digit_features()
    system, member, assignment = tokenizer(dataset)
    train, test = (over(lambda b: system.encode(member, b["x"]), s, dataset) for s in (dataset.train, dataset.test))

    def seen(images):
        images = jax.image.resize(images, (images.shape[0], 28, 28, 1), "linear")
        return features(jnp.clip(images, 0.0, 1.0))

    real = over(lambda b: seen(b["x"]), dataset.test, dataset)
    decoded = jax.jit(lambda codes: seen(system.decode(member, codes)))
    runs = {"plain": on_codes(train, test, "transformer", 256, 1000, seeds=2, hidden=64, layers=4)[0],
            "ctf": on_codes(train, test, "coarse_to_fine", 256, 1000, seeds=2, hidden=64, layers=2,
                            assignment=tuple(assignment.tolist()))[0]}
    found, distances, draws = {}, {}, {}
    for name, run in runs.items():
        draws[name] = jax.jit(lambda m, key, n, r=run: r.system.sample(m, key, n), static_argnums=2)
        values = [float(metrics.frechet_distance(decoded(draws[name](m, jax.random.key(1), 1000)), real))
                  for m in run.members]
        distances[name] = np.mean(values)
        found |= {f"{name}_frechet": mean_sd(values), f"{name}_nats": mean_sd(run.test["nll"]),
                  f"{name}_parameters": sum(leaf.size for leaf in jax.tree.leaves(run.members[0].params))}
    times = {name: [] for name in draws}
    for turn in range(6):
        for name, draw in draws.items():
            started = time.perf_counter()
            jax.block_until_ready(draw(runs[name].members[0], jax.random.key(turn), 100))
            if turn:  # the first compiles
                times[name].append(time.perf_counter() - started)
    found |= {f"{name}_ms_per_image": float(10 * np.median(values)) for name, values in times.items()}
    ratios = {"frechet_ratio": float(distances["ctf"] / distances["plain"]),
              "time_ratio": found["ctf_ms_per_image"] / found["plain_ms_per_image"]}
    holds = (ratios["frechet_ratio"] <= threshold["frechet_ratio_at_most"]
             and ratios["time_ratio"] < threshold["time_ratio_below"])
    return Outcome(bool(holds), ratios | found, (0, 1))
