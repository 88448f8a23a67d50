"""Separates mixtures of two images by the codes of a trained VQ-VAE and a causal prior on them.

    python experiments/run.py --config=configs/vq.py
    python experiments/run.py --config=configs/prior.py:transformer,conditional --config.autoencoder=runs/vq \\
        --workdir=runs/classes
    python experiments/separate.py --workdir=runs/classes
    python experiments/separate.py --workdir=runs/classes --sources=3,7+8 --samples=100 --refine=500

The workdir is that of the prior (configs/prior.py:transformer or :linear), which names its autoencoder. `--sources`
says which classes each source may be of, joined by +; by default the lower half of them and the upper half. A source of
several classes has their mixture as prior, each equally likely. A prior without classes is that of both sources.

Pairs of random test images, one of each source, are averaged, separated and compared with the truth: mean PSNR in the
better order of the two. The figure `separation.png` has, from above, mixtures, sources, and estimates; the numbers are
in `separation.json`. Latent autoregressive source separation: Postolache et al. 2023, arXiv 2301.08562.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxae.inference.addend_tokens import token_log_likelihood
from jaxae.metrics.image import permutation_psnr
from jaxae.systems.latent import separation
from jaxae.train import main
from jaxae.train.config import ConfigError
from jaxae.train.figures import write_figures
from jaxae.train.logging import results_table, say
from jaxae.train.setup import open_run

flags.DEFINE_string("workdir", None, "Workdir of the prior's run.", required=True)
flags.DEFINE_list("sources", [], "Classes of the two sources, such as 0+1+2+3+4,5+6+7+8+9.")
flags.DEFINE_integer("mixtures", 100, "Mixtures to separate.", lower_bound=1)
flags.DEFINE_integer("beams", 20, "Beams of the search.", lower_bound=1)
flags.DEFINE_integer("samples", 0, "Draw so often in place of the search, and take the closest.", lower_bound=0)
flags.DEFINE_float("temperature", 1.0, "Of the priors.", lower_bound=1e-3)
flags.DEFINE_integer("top_k", 0, "Pairs among which a draw chooses; 0 for all.", lower_bound=0)
flags.DEFINE_integer("refine", 0, "Steps of refinement of the latents by their gradient.", lower_bound=0)
flags.DEFINE_float("refine_rate", 0.1, "Rate of the refinement's first steps, halved every 100.")
flags.DEFINE_integer("epochs", 50, "Epochs of random training pairs whose codes are counted.", lower_bound=1)
flags.DEFINE_float("eps", 0.1, "Smoothing of the counts.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of the pairs and draws.")


def classes_of(model, given: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The labels of each source.

    Raises:
      ConfigError: for sources that the prior does not have.
    """
    if not model.conditional:
        if given:
            raise ConfigError("this prior has no classes: leave --sources out, or train configs/prior.py:transformer,"
                              "conditional")
        return (), ()
    half = model.classes // 2
    given = given or ["+".join(map(str, part)) for part in (range(half), range(half, model.classes))]
    try:
        found = tuple(tuple(int(name) for name in part.split("+")) for part in given)
    except ValueError:
        found = ()
    if len(found) != 2 or not all(0 <= y < model.classes for part in found for y in part):
        raise ConfigError(f"--sources={','.join(given)} must name the classes of two sources, from 0 to "
                          f"{model.classes - 1}, such as --sources=0+1,2+3")
    return found


def images_of(split, dataset) -> dict[str, np.ndarray]:
    """A whole split as the autoencoder sees it."""
    transform, rows = jax.jit(dataset.test_transform), []
    for start in range(0, len(split), 500):
        batch = split[np.arange(start, min(start + 500, len(split)))]
        rows.append(jax.device_get(transform(batch, jax.random.fold_in(jax.random.key(0), start))))
    return {name: np.concatenate([row[name] for row in rows]) for name in ("x", "label") if name in rows[0]}


def pairs_of(test: dict[str, np.ndarray], classes, count: int, rng) -> np.ndarray:
    """Random images of each source, `[count 2 ...]`."""
    rows = [np.flatnonzero(np.isin(test["label"], part)) if part else np.arange(len(test["x"])) for part in classes]
    for part, found in zip(classes, rows, strict=True):
        if not found.size:
            raise ConfigError(f"the test split has no image of the classes {part}")
    return np.stack([test["x"][rng.choice(found, count)] for found in rows], 1)


def report() -> None:
    """Separates by the flags."""
    options, run = flags.FLAGS, open_run(flags.FLAGS.workdir)
    if not run.config.autoencoder:
        raise ConfigError(f"{options.workdir} holds {run.config.system}: give the workdir of a prior, a run of "
                          "configs/prior.py:transformer")
    autoencoder, classes = open_run(run.config.autoencoder), classes_of(run.config.model, options.sources)
    prior = separation.prior_of(run.config.model, autoencoder.system.latent, run.config.dtype)
    model = separation.separator(autoencoder.system, autoencoder.members()[0], prior, run.members()[0].params, classes)
    train, test = (images_of(split, autoencoder.dataset) for split in autoencoder.dataset[:2])
    keys = jax.random.split(jax.random.key(options.seed))
    say(f"counting the codes of {options.epochs} epochs of random pairs ...")
    counts = jax.jit(partial(separation.count_mixtures, model.encode, num_codes=model.num_codes,
                             epochs=options.epochs))(x=jnp.asarray(train["x"]), key=keys[0])
    likelihood = token_log_likelihood(counts, options.eps)
    sources = pairs_of(test, classes, options.mixtures, np.random.default_rng(options.seed))
    mixtures = jnp.asarray(sources.mean(1))
    of = " and ".join(str(part) for part in classes) if classes[0] else "anything"
    say(f"separating {options.mixtures} mixtures of {of} ...")
    found = jax.jit(partial(separation.separate, model, beams=options.beams, samples=options.samples,
                            temperature=options.temperature, top_k=options.top_k or None))(
        likelihood=likelihood, mixtures=mixtures, key=keys[1])
    estimates = {"estimates": found.sources}
    if options.refine:
        refine = partial(separation.refine, model, steps=options.refine, rate=options.refine_rate)
        estimates["refined"] = jax.jit(refine)(found, mixtures)

    def psnr(images):
        return float(permutation_psnr(jnp.asarray(sources), jnp.clip(images, 0.0, 1.0)).mean())

    again = jax.jit(lambda x: model.decode(model.encode(x)))(jnp.asarray(sources.reshape(-1, *sources.shape[2:])))
    numbers = {f"psnr/{name}": psnr(images) for name, images in estimates.items()} | {
        "psnr/the autoencoder's own": psnr(again.reshape(sources.shape)),
        "psnr/the mixture as both": psnr(jnp.repeat(mixtures[:, None], 2, 1)),
        "unexplained": float(jnp.mean(jnp.isneginf(found.score)))}
    folder = Path(options.workdir)
    (folder / "separation.json").write_text(json.dumps({"sources": classes, "metrics": numbers}, indent=2) + "\n")
    say(results_table(numbers))
    rows = [mixtures, *sources.swapaxes(0, 1), *(images[:, i] for images in estimates.values() for i in range(2))]
    shown = np.clip(np.stack([np.asarray(row[:12]) for row in rows]), 0.0, 1.0)
    paths, _ = write_figures(folder / "figures", run.step, {"separation": shown})
    say("figures: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main.run(report)
