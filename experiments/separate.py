"""Separates mixtures of two images or sounds by the codes of a trained VQ-VAE and a causal prior on them.

    python experiments/run.py --config=configs/vq.py
    python experiments/run.py --config=configs/prior.py:transformer,conditional --config.autoencoder=runs/vq \\
        --workdir=runs/classes
    python experiments/separate.py --workdir=runs/classes
    python experiments/separate.py --workdir=runs/classes --sources=3,7+8 --samples=100 --refine=500

and drums from a bass, after configs/audio.py and configs/prior.py:sounds, by `--workdir=runs/sounds`.

The workdir is that of the prior (configs/prior.py:transformer or :linear), which names its autoencoder. `--sources`
says which classes each source may be of, joined by +; by default the lower half of them and the upper half. A source of
several classes has their mixture as prior, each equally likely. A prior without classes is that of both sources.

Pairs of random test examples, one of each source, are averaged, separated and compared with the truth: images by mean
PSNR in the better order of the two, sounds by mean SI-SDR in the order of the priors. Codes of mixtures are counted in
a table of all triples for codebooks up to 256, in lists of those that occur above. The figure `separation.png` has,
from above, mixtures, sources, and estimates, sounds as spectra; the numbers are in `separation.json`, and the first
sounds as WAV files in `sounds`. Latent autoregressive source separation: Postolache et al. 2023, arXiv 2301.08562.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxae import metrics
from jaxae.data.wav import write_wav
from jaxae.inference.addend_tokens import token_log_likelihood
from jaxae.systems import figures as draw
from jaxae.systems.latent import separation
from jaxae.train import main
from jaxae.train.config import ConfigError
from jaxae.train.figures import write_figures
from jaxae.train.logging import results_table, say
from jaxae.train.setup import open_run

TABLE = 256  # codes up to which a table of all triples is counted: 64 MB

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
flags.DEFINE_float("eps", None, "Smoothing of the counts: 0.1 for a table, 0 for lists where nothing is said.")
flags.DEFINE_float("weight", 1.0, "Of the likelihood against the priors.", lower_bound=0)
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


def rows_of(split, dataset) -> dict[str, np.ndarray]:
    """A whole split as the autoencoder sees it."""
    transform, rows = jax.jit(dataset.test_transform), []
    for start in range(0, len(split), 500):
        batch = split[np.arange(start, min(start + 500, len(split)))]
        rows.append(jax.device_get(transform(batch, jax.random.fold_in(jax.random.key(0), start))))
    return {name: np.concatenate([row[name] for row in rows]) for name in ("x", "label") if name in rows[0]}


def pairs_of(test: dict[str, np.ndarray], classes, count: int, rng) -> np.ndarray:
    """Random examples of each source, `[count 2 ...]`; silence is no source."""
    audible = np.abs(test["x"]).reshape(len(test["x"]), -1).max(1) > 1e-3
    rows = [np.flatnonzero(audible & (np.isin(test["label"], part) if part else True)) for part in classes]
    for part, found in zip(classes, rows, strict=True):
        if not found.size:
            raise ConfigError(f"the test split has no example of the classes {part}")
    return np.stack([test["x"][rng.choice(found, count)] for found in rows], 1)


def count(encode, x, num_codes: int, epochs: int, seed: int, key):
    """A table for small codebooks, lists for large ones."""
    if num_codes <= TABLE:
        return jax.jit(partial(separation.count_mixtures, encode, num_codes=num_codes, epochs=epochs))(x=x, key=key)
    return separation.count_mixture_pairs(encode, x, num_codes, np.random.default_rng(seed), epochs)


def quality(sources, estimates, ordered: bool) -> tuple[str, float]:
    """Name and mean: SI-SDR of sounds, of `ordered` ones as they stand, or PSNR of images."""
    truth, estimates = jnp.asarray(sources), jnp.asarray(estimates)
    if not draw.is_sound(truth[:, 0]):
        return "psnr", float(metrics.permutation_psnr(truth, jnp.clip(estimates, 0.0, 1.0)).mean())
    found = metrics.si_sdr(truth[..., 0], estimates[..., 0]).mean(1)
    if not ordered:
        found = jnp.maximum(found, metrics.si_sdr(truth[..., 0], estimates[:, ::-1, :, 0]).mean(1))
    return "si_sdr", float(found.mean())


def show(folder: Path, step: int, mixtures, sources, estimates, sample_rate: int | None):
    """The figures' paths, after writing them, and sounds to listen to."""
    rows = [mixtures, *sources.swapaxes(0, 1), *(x[:, i] for x in estimates.values() for i in range(2))]
    shown = np.stack([np.asarray(row[:12]) for row in rows])
    if not draw.is_sound(shown[0]):
        return write_figures(folder / "figures", step, {"separation": np.clip(shown, 0.0, 1.0)})[0]
    last = np.asarray([*estimates.values()][-1])[:4]
    curves = np.stack([sources[:4], last]).reshape(2, -1, shown.shape[2])  # truth under estimate, source after source
    heard = {"mixture": mixtures} | {f"{kind}{i + 1}": x[:, i] for kind, x in (("source", sources), ("estimate", last))
                                     for i in range(2)}
    for name, clips in heard.items():
        for i, x in enumerate(np.asarray(clips[:4])):
            write_wav(folder / "sounds" / f"{i}_{name}.wav", x, sample_rate or 44_100)
    return write_figures(folder / "figures", step, {
        "separation": np.asarray(draw.spectra(jnp.asarray(shown[:, :6]))), "separation_waveforms": curves})[0]


def report() -> None:
    """Separates by the flags."""
    options, run = flags.FLAGS, open_run(flags.FLAGS.workdir)
    if not run.config.autoencoder:
        raise ConfigError(f"{options.workdir} holds {run.config.system}: give the workdir of a prior, a run of "
                          "configs/prior.py:transformer")
    autoencoder, classes = open_run(run.config.autoencoder), classes_of(run.config.model, options.sources)
    prior = separation.prior_of(run.config.model, autoencoder.system.latent, run.config.dtype)
    model = separation.separator(autoencoder.system, autoencoder.members()[0], prior, run.members()[0].params, classes)
    train, test = (rows_of(split, autoencoder.dataset) for split in autoencoder.dataset[:2])
    keys = jax.random.split(jax.random.key(options.seed))
    say(f"counting the codes of {options.epochs} epochs of random pairs ...")
    counts = count(model.encode, jnp.asarray(train["x"]), model.num_codes, options.epochs, options.seed, keys[0])
    eps = options.eps if options.eps is not None else 0.1 if model.num_codes <= TABLE else 0.0
    likelihood = token_log_likelihood(counts, eps, options.weight)
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
    again = jax.jit(lambda x: model.decode(model.encode(x)))(jnp.asarray(sources.reshape(-1, *sources.shape[2:])))
    compared = estimates | {"the autoencoder's own": again.reshape(sources.shape),
                            "the mixture as both": jnp.repeat(mixtures[:, None], 2, 1)}
    named = {name: quality(sources, x, bool(classes[0])) for name, x in compared.items()}
    numbers = {f"{metric}/{name}": value for name, (metric, value) in named.items()}
    numbers["unexplained"] = float(jnp.mean(jnp.isneginf(found.score)))
    folder = Path(options.workdir)
    (folder / "separation.json").write_text(json.dumps({"sources": classes, "metrics": numbers}, indent=2) + "\n")
    say(results_table(numbers))
    paths = show(folder, run.step, mixtures, sources, estimates, autoencoder.dataset.train.info.get("sample_rate"))
    say("figures: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main.run(report)
