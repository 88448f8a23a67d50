"""Claims of the tied autoencoder with ReLU and L1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from claims import Outcome, claim
from claims.sparse import cosines, learned, planted
from jaxae import data
from jaxae.metrics.dictionaries import match_atoms, mean_max_cosine
from jaxae.nn.capture import capture
from jaxae.nn.transformer import Transformer
from jaxae.sae.atoms import random_atoms, unit_rows
from jaxae.sae.interventions import each_erased, leace, mean_eraser
from jaxae.sae.linear_dictionaries import ica_dictionary, pca_dictionary
from jaxae.systems.base import Objective
from jaxae.systems.builders import one_loss
from jaxae.train import fit

TIED = dict(encoder="tied", center=False, offset="zero", unit_norm=False)


@claim(paper="P081", budget=120, threshold={"mmcs": 0.95, "baselines": 0.6},
       sentence="over a range of L1 weights planted atoms are found (MMCS at least 0.95 at two neighbouring weights) "
                "by tied and by untied autoencoders, and not below it; principal components and random directions "
                "stay at 0.6 or less")
def tied_l1_finds_planted_atoms(threshold):
    """64 atoms in 32 dimensions, 3 active; 3,000 updates of 512, weights side by side, against the squared error summed
    over dimensions. MMCS is the mean over learned atoms of the largest cosine with a true one, and grows with the
    number of true atoms: `random` is its chance level. `matched` is one to one."""
    dataset, weights, measured, plateau = planted(), (0.03, 0.1, 0.2, 0.3, 0.5), {}, []
    truth, x = dataset.train.info["atoms"], dataset.train.arrays()["x"]
    for name, model in (("tied", TIED), ("untied", {})):
        run = learned(dataset, 3000, sparsifier="relu", error="sum", sweep=(("model.l1", weights),), **model)
        found = [float(mean_max_cosine(one.params["decoder"], jnp.asarray(truth))) for one in run.members]
        good = np.array(found) >= threshold["mmcs"]
        plateau.append(bool((good[1:] & good[:-1]).any() and not good[0]))
        matched = cosines(run, truth)
        measured |= {f"{name}_{w:g}_{k}": float(v[i]) for i, w in enumerate(weights)
                     for k, v in (("mmcs", found), ("matched", matched), ("l0", run.test["l0"]))}
    others = {"pca": pca_dictionary(jnp.asarray(x), 32), "ica": ica_dictionary(x[:20_000], 32),
              "random": random_atoms(jax.random.key(0), 64, 32)}
    for name, atoms in others.items():
        measured |= {name: float(mean_max_cosine(atoms, jnp.asarray(truth))),
                     f"{name}_matched": float(match_atoms(truth, atoms).cosine.mean())}
    holds = all(plateau) and max(measured["pca"], measured["random"]) <= threshold["baselines"]
    return Outcome(bool(holds), measured)


# A language of 20 words that follow each other, 4 names of each of two kinds, a question and its two answers.
WORDS, NAMES, LENGTH = 20, 8, 13
QUESTION, ANSWER = WORDS + NAMES, WORDS + NAMES + 1
HELD = 64  # atoms in 32 dimensions


class Host(nn.Module):
    """A transformer of two layers on tokens `[n t]`."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(ANSWER + 2, 32, name="embed")(tokens)
        return Transformer(ANSWER + 2, (LENGTH - 1,), width=32, layers=2, heads=4, name="transformer")(x)


def sentences(count: int, seed: int) -> np.ndarray:
    """Tokens `[count LENGTH]`: each word follows the one before by a fixed rule in 4 of 5 cases; somewhere stands a
    name, two places later the question, and behind it the answer that goes with the name's kind."""
    rng = np.random.default_rng(seed)
    rule, rows = np.random.default_rng(1).permutation(WORDS), np.arange(count)
    tokens = rng.integers(0, WORDS, (count, LENGTH))
    for t in range(1, LENGTH):
        tokens[:, t] = np.where(rng.random(count) < 0.8, rule[tokens[:, t - 1]], tokens[:, t])
    place, name = rng.integers(0, LENGTH - 3, count), rng.integers(0, NAMES, count)
    tokens[rows, place] = WORDS + name
    tokens[rows, place + 2] = QUESTION
    tokens[rows, place + 3] = ANSWER + name // (NAMES // 2)
    return tokens.astype(np.int32)


def _losses(logits, tokens):
    """-log p of each token but the first `[n t-1]`."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1)[..., 0]


def trained_host(steps: int):
    """Parameters of a host that has learned the language, and its batch."""
    net = Host()

    def init(key, batch):
        return net.init(key, batch["x"][:, :-1]), ()

    def loss(params, extra, batch, key, train):
        return Objective(_losses(net.apply(params, batch["x"][:, :-1]), batch["x"]).sum(-1))

    system = one_loss(init, loss, optax.adam(3e-3))
    dataset = data.from_arrays(sentences(20_000, 0), test_x=sentences(1000, 2))
    state, _ = fit(system, dataset, steps, jax.random.key(0), batch_size=128)
    return net, state.params


@claim(paper="P081", budget=240, threshold={"chance": 0.1, "others": 0.02, "task": 0.95},
       sentence="in a tiny transformer whose planted task is to name the kind of a word three places before, erasing a "
                "single feature takes the task to chance (within 10%) and changes the loss elsewhere by under 2%; the "
                "principal component that does it, if one does, does more damage")
def one_feature_carries_a_planted_task(threshold):
    """A transformer of 2 layers and 32 channels (accuracy at least 0.95 to begin with); 64 tied atoms on the residual
    stream after its first layer, L1. A component is erased by projecting it out around the mean. Beside: erasure by
    least squares (LEACE) and along the difference of the kinds' means at the question."""
    net, params = trained_host(1000)
    layer, tokens = "Host/transformer/block0", jnp.asarray(sentences(1000, 3))
    asked = tokens[:, 1:] >= ANSWER

    def run(tokens, change=None):
        added = None if change is None else {layer: change}
        logits, found = capture(lambda t: net.apply(params, t[:, :-1]), tokens, names=(layer,), added=added)
        return logits, found[layer]

    def effect(logits, tokens, asked):
        right = logits[..., ANSWER] < logits[..., ANSWER + 1]
        return ((right == (tokens[:, 1:] == ANSWER + 1)) * asked).sum() / asked.sum(), (
            jnp.where(asked, 0.0, _losses(logits, tokens)).sum() / (~asked).sum())

    def after(change):
        return effect(run(tokens, change)[0], tokens, asked)

    train = jnp.asarray(sentences(5000, 0))
    x = jax.jit(lambda t: run(t)[1])(train).reshape(-1, 32)
    logits, here = jax.jit(run)(tokens)
    task, others = (float(v) for v in effect(logits, tokens, asked))
    spread = float(jnp.square(x - x.mean(0)).sum(-1).mean())
    scaled = np.asarray((x - x.mean(0)) / spread**0.5)
    one = learned(data.from_arrays(scaled, test_x=scaled[:2000]), 2000, atoms=HELD, sparsifier="relu", error="sum",
                  l1=0.03, sparsity_warmup=300, **TIED)
    codes = one.system.encode(one.members[0], ((here - x.mean(0)) / spread**0.5).reshape(-1, 32))
    codes = codes.reshape(*here.shape[:2], HELD)
    atoms = unit_rows(one.members[0].params["decoder"]) * spread**0.5
    directions = pca_dictionary(x, 32)

    def projected(i):
        return after(-((here - x.mean(0)) @ directions[i])[..., None] * directions[i])

    found = {"feature": jax.jit(lambda: each_erased(lambda x: after(x - here), here, codes, atoms))(),
             "pca": jax.jit(lambda: jax.lax.map(projected, jnp.arange(32)))()}
    measured = {"task": task, "others": others, "l0": float(one.test["l0"][0]), "fvu": float(one.test["fvu"][0])}
    damage = {}
    for name, (accuracy, loss) in found.items():
        change = np.asarray(loss) / others - 1.0
        gone = np.abs(np.asarray(accuracy) - 0.5) <= threshold["chance"]
        best = int(np.where(gone, change, np.inf).argmin() if gone.any() else np.asarray(accuracy).argmin())
        damage[name] = change[best] if gone.any() else np.inf
        measured |= {f"{name}_task": float(accuracy[best]), f"{name}_others_change": float(change[best])}
    kinds = (train[:, 1:][train[:, 1:] >= ANSWER] == ANSWER + 1).astype(jnp.float32)
    asking = x.reshape(-1, LENGTH - 1, 32)[train[:, 1:] >= ANSWER]
    for name, eraser in (("leace", leace(asking, kinds[:, None])), ("means", mean_eraser(asking, kinds))):
        accuracy, loss = jax.jit(lambda e: after(e(here) - here))(eraser)
        measured |= {f"{name}_task": float(accuracy), f"{name}_others_change": float(loss) / others - 1.0}
    holds = (task >= threshold["task"] and abs(damage["feature"]) < threshold["others"]
             and damage["feature"] < damage["pca"])
    return Outcome(bool(holds), measured)
