"""Claims of the survey of autoregressive models in vision: causality, normalisation, and what costs how much."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.ar_models import AR_MODELS, CLASSES, SCALES, SIDE, fitted, independent, influence, measured, prior_of
from claims.training import config_of, trained
from jaxae import data
from jaxae.priors import next_scale
from jaxae.systems.latent import prior
from jaxae.systems.latent import priors_by_name as named


@claim(paper="P140", budget=120, threshold={"unaffected_at_most": 0.0, "affected_above": 0.0},
       sentence="in each of eight models, of the benchmark's sizes, what a network says of a code changes with every "
                "code before it in its order, and with no other")
def every_model_is_causal(threshold):
    """One code at a time is replaced; changes are relative to the largest logit, and must be exactly zero where there
    is no dependence. Parameters are those of the start with noise of deviation 0.05, since some layers start at zero;
    0.4 for the PixelCNN, whose farthest pixels come through the outermost taps of 11 layers: at 0.05 their share is
    below float32's rounding.

    The order of the masked model is drawn: what the loss counts must not change with any code that it counts, and must
    with all others, in three draws.
    """
    found, least, most = {}, np.inf, 0.0
    for name, model in AR_MODELS.items():
        shape = (sum(s * s for s in SCALES),) if model.prior == "next_scale" else model.map
        levels, twin = model.codes, prior_of(model, shape, model.codes)
        codes = jax.random.randint(jax.random.key(1), (1, *shape), 0, levels)
        leaves, tree = jax.tree.flatten(jax.jit(twin.init)(jax.random.key(0), codes))
        keys = jax.random.split(jax.random.key(2), len(leaves))
        noise = 0.4 if model.prior == "autoregressive" else 0.05
        params = tree.unflatten([x + noise * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
        run = jax.jit(lambda z, key, twin=twin, params=params, levels=levels: influence(
            (lambda z: twin.log_prob(params, z)) if twin.log_prob else lambda z: twin.loss(params, z, None, key),
            z, (z + 1) % levels))
        pairs = []
        if model.order == "random":
            for seed in range(3):
                change, hidden = (np.asarray(part) for part in run(codes, jax.random.key(seed))[0])
                pairs.append((change[hidden], np.broadcast_to(~hidden, change[hidden].shape)))
        else:
            for (change, counts), sees in zip(run(codes, jax.random.key(0)), model.sees(shape), strict=True):
                if not counts.all():
                    raise AssertionError(f"the log-probability of {name} leaves outputs out")
                pairs.append((np.asarray(change), sees))
        affected, other = (np.concatenate([change[sees == wanted] for change, sees in pairs])
                           for wanted in (True, False))
        found |= {f"{name}_affected": float(affected.min()), f"{name}_unaffected": float(other.max())}
        least, most = min(least, affected.min()), max(most, other.max())
    return Outcome(bool(least > threshold["affected_above"] and most <= threshold["unaffected_at_most"]), found)


def ising(side: int, coupling: float, field: float) -> tuple[np.ndarray, np.ndarray]:
    """All images [2^(side^2) side side] of zeros and ones, and p = exp(J sum_<ij> s_i s_j + h sum_i s_i) / Z."""
    every = (np.arange(2**side**2)[:, None] >> np.arange(side**2)[::-1] & 1).reshape(-1, side, side)
    s = 2.0 * every - 1.0
    log_p = coupling * ((s[:, 1:] * s[:, :-1]).sum((1, 2)) + (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2)))
    p = np.exp(log_p + field * s.sum((1, 2)))
    return every.astype(np.int32), p / p.sum()


@claim(paper="P140", budget=180, threshold={"nll_relative_error": 0.03, "normalisation_error": 1e-3},
       sentence="of binary Ising images of 4 x 4 every model with an exact likelihood learns the entropy within 3%, "
                "and the probabilities of all 65,536 images sum to one")
def likelihoods_are_exact_on_ising_images(threshold):
    """J = 0.4, h = 0.1, 40,000 images to train, the same number of updates. NLL is the exact cross-entropy over all
    images, no sample of them. Coarse-to-fine has two clusters of one code.

    The next-scale model has independent codes within a scale, so that no images but those of its own tokenizer can be
    asked of it: of 65,536 sequences (scales of 1 and 3 x 5 codes), at the parameters it starts with and noise, the sum
    alone. The masked model has a bound, which stands beside the others.
    """
    every, p = ising(4, 0.4, 0.1)
    entropy = float(-(p * np.log(p)).sum())
    rows = np.random.default_rng(0).choice(len(p), 42_000, p=p)
    dataset = data.from_arrays(every[rows[:40_000]], test_x=every[rows[40_000:]])
    nets = {"autoregressive": dict(hidden=24, layers=3, embed=8)}
    found, errors, sums = {"entropy": entropy}, [], []

    def total(log_prob, sequences):
        log_q = np.concatenate([np.asarray(log_prob(part), np.float64) for part in np.split(sequences, 16)])
        sums.append(abs(np.exp(log_q).sum() - 1))
        return log_q

    for name in ("autoregressive", "transformer", "linear_transformer", "axial", "coarse_to_fine", "masked"):
        config = config_of(prior, 700, batch_size=200, rate=4e-3, prior=name, codes=2, assignment=(0, 1), dropout=0.0,
                           label_dropout=0.0, **nets.get(name, dict(hidden=32, layers=2, heads=4)))
        config.optim.update(dict(schedule="cosine", warmup_steps=50, clip=1.0))
        run = trained(config, dataset)
        if name == "masked":
            found["masked_bound"] = float(run.test["nll_bound"][0])
            continue
        twin = named.CODES[name].build(named.Case(config.model, (4, 4), 0, None, jnp.dtype("float32")))
        log_prob = jax.jit(lambda z, twin=twin, run=run: twin.log_prob(run.members[0].params, z))
        nll = -(p * total(log_prob, every)).sum()
        errors.append(nll / entropy - 1)
        found |= {f"{name}_nll": float(nll), f"{name}_relative_error": float(errors[-1]),
                  f"{name}_sum_minus_one": float(sums[-1])}
    twin = next_scale((1, (3, 5)), 2, width=32, depth=2, heads=4)
    sequences = every.reshape(-1, 16)
    leaves, tree = jax.tree.flatten(jax.jit(twin.init)(jax.random.key(0), sequences[:1]))
    params = tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(
        leaves, jax.random.split(jax.random.key(1), len(leaves)), strict=True)])
    log_q = total(jax.jit(lambda z: twin.log_prob(params, z)), sequences)
    found |= {"next_scale_sum_minus_one": float(sums[-1]), "next_scale_log_prob_sd": float(log_q.std())}
    holds = 0 <= min(errors) and max(errors) < threshold["nll_relative_error"] \
        and max(sums) < threshold["normalisation_error"]
    return Outcome(bool(holds), found)


@claim(paper="P140", budget=900,
       threshold={"steps_ratio_above": 1.0, "time_ratio_above": 1.0, "bits_over_independent_below": 1.0},
       sentence="pixels take more sequential steps than tokens, tokens more than scales, and in the mean of a family "
                "more time for an image; every model needs fewer bits than independent pixels (Frechet distances and "
                "bits of the families stand beside)")
def scales_are_faster_than_tokens_and_tokens_than_pixels(threshold):
    """Eight models of 60,000 parameters each, class-conditional, 14 x 14 digits of 8 grey levels, the same number of
    updates (of tokens and scales two fifths are the tokenizer's), batches and samples. Steps: any of a family above any
    of the next. Time: processor time of batches of 50 after compilation, decoders included. The bits of independent
    pixels are those without the class, and to the models' the class's own log2 10 bits are added.
    """
    steps, samples, rows = 600, 150, {}
    for name, model in AR_MODELS.items():
        rows[name] = measured(fitted(model, steps, 32), model.steps(model.map), samples)[0]
    alone, alone_in_class = (measured(independent(of_class), 1, samples)[0] for of_class in (False, True))
    of_label = np.log2(CLASSES) / SIDE**2  # what the class costs, which the models are told
    families = {kind: [rows[name] for name, model in AR_MODELS.items() if model.representation == kind]
                for kind in ("pixel", "token", "scale")}
    pairs = (("pixel", "token"), ("token", "scale"))
    ratios = {f"{a}_over_{b}": (min(row["steps"] for row in families[a]) / max(row["steps"] for row in families[b]),
                                np.mean([row["image_ms"] for row in families[a]])
                                / np.mean([row["image_ms"] for row in families[b]])) for a, b in pairs}
    bits = (max(row["bits"] for row in rows.values()) + of_label) / alone["bits"]
    holds = (min(ratio for ratio, _ in ratios.values()) > threshold["steps_ratio_above"]
             and min(ratio for _, ratio in ratios.values()) > threshold["time_ratio_above"]
             and bits < threshold["bits_over_independent_below"])
    found = {f"{name}_{pair}": float(value) for pair, both in ratios.items()
             for name, value in zip(("steps", "time"), both, strict=True)} | {"bits_over_independent": bits}
    for kind, members in families.items():
        found |= {f"{kind}_best_frechet": min(row["frechet"] for row in members),
                  f"{kind}_best_bits": min(row["bits"] for row in members)}
    found |= {f"{name}_{measure}": rows[name][measure] for measure in ("bits", "frechet", "image_ms", "update_ms")
              for name in rows}
    return Outcome(bool(holds), found | {"independent_bits": alone["bits"], "independent_frechet": alone["frechet"],
                                         "independent_in_class_bits": alone_in_class["bits"]})
