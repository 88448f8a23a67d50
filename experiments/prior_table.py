"""Autoencoders with codes by priors on their codes: bits, class accuracy and Frechet distance of samples.

    python experiments/prior_table.py                        # all rows and columns: some six hours on one core
    python experiments/prior_table.py --models=vq --priors=transformer,masked
    python experiments/prior_table.py --models=fsq --priors=axial --runs=runs/prior_table  # cell by cell

Every autoencoder is a config of 28x28 digits with the same number of updates, every prior a class-conditional config on
its codes (`vae`: on vectors). `bits`: of the codes of a test image under the prior; `accuracy`: share of 1,000 samples,
100 of each class, in which the library's digit classifier reads the class that was asked for; `frechet`, `precision`
and `recall` against the test set on that classifier's features. `(reconstruction)` has the test images through the
autoencoder, which no prior can be expected to beat, and their codes at log2 K each. The numbers, samples and two tables
(a line for each pair, and autoencoders by priors) land in `experiments/results/`, or `--output`; cells that stand there
from a run with the same settings stay, those of `--models` and `--priors` are measured anew. A cell takes some ten
minutes, all but one of them training at the rate of the matrix products; four codes a vector (`residual`, `latent`)
take four times as long.
"""

import contextlib
import importlib.util
import itertools
import math
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags
from claims.tables import measured

from jaxae import data, metrics
from jaxae.train import train
from jaxae.train.setup import Run, open_run

HERE = Path(__file__).parent
ON_CODES = ("pixelcnn", "transformer", "linear", "axial", "masked")
MODELS = {"vq": ("vq", (*ON_CODES, "coarse")), "rotation": ("vq:rotation", (*ON_CODES, "coarse")),
          "fsq": ("vq:fsq", ON_CODES), "lfq": ("vq:lfq", ON_CODES),
          "residual": ("vq:residual", ("transformer", "masked")),
          "latent": ("vq:latent", ("transformer", "masked")), "multi_scale": ("vq:multi_scale", ("next_scale",)),
          "global": ("global_codes", ("transformer",)),
          "vae": ("vae:conv", ("diffusion", "flow_matching", "autoregressive"))}
PRIORS = tuple(dict.fromkeys(prior for _, priors in MODELS.values() for prior in priors))
MEASURES = ("bits", "accuracy", "frechet", "precision", "recall")
NO_PRIOR = "(reconstruction)"
PER_CLASS = 100
flags.DEFINE_list("models", list(MODELS), f"Among {', '.join(MODELS)}.")
flags.DEFINE_list("priors", list(PRIORS), f"Among {', '.join(PRIORS)}.")
flags.DEFINE_integer("steps", 1000, "Updates of each autoencoder.")
flags.DEFINE_integer("prior_steps", 1000, "Updates of each prior on codes; those on vectors take three times as many.")
flags.DEFINE_string("output", str(HERE / "results"), "Folder of prior_table.json, .md and .png.")
flags.DEFINE_string("runs", "", "Folder that keeps the runs: what was trained there is not trained again. '': none.")


def run_of(spec: str, steps: int, workdir: Path, autoencoder: Path | None = None) -> tuple[Run, dict]:
    """A config, trained into a workdir unless it was before, and opened again, with the metrics of its test split."""
    name, _, arg = spec.partition(":")
    found = importlib.util.spec_from_file_location(name, HERE.parent / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    config = module.get_config(arg)
    config.update(dict(steps=steps, eval_every=steps, checkpoint_every=steps, figures_every=0, evaluators=()))
    config.autoencoder = str(autoencoder or "")
    results = train(config, workdir)
    if "metrics" not in results:
        raise SystemExit("stopped; the same command goes on where --runs keeps the runs")
    return open_run(workdir), results["metrics"]


def row(model: str, options, test: dict, features, logits, folder: Path) -> dict[str, list[float]]:
    """The numbers of one autoencoder with all its priors; an image of each class of each prior goes to `folder`."""
    spec, fitting = MODELS[model]
    label, numbers = jnp.arange(10 * PER_CLASS) % 10, {}

    def note(column, images, **measures):
        found = features(images)
        measures["frechet"] = metrics.frechet_distance(found, features(test["x"]))
        measures["precision"], measures["recall"] = metrics.precision_recall(features(test["x"]), found)
        numbers.update({f"{name}, {column}": [float(value)] for name, value in measures.items()})

    with contextlib.ExitStack() as stack:
        runs = Path(options.runs or stack.enter_context(tempfile.TemporaryDirectory()))
        workdir = runs / model
        autoencoder, _ = run_of(spec, options.steps, workdir)
        system, member = autoencoder.system, autoencoder.members()[0]
        reconstruct, decode = (by_parts(jax.jit(partial(f, member))) for f in (system.reconstruct, system.decode))
        codes = system.latent.codes
        bits = {"bits": math.prod(system.latent.shape) * math.log2(codes)} if codes else {}
        note(NO_PRIOR, reconstruct(test["x"]), accuracy=accuracy(logits, reconstruct(test["x"]), test["label"]), **bits)
        for prior in (p for p in fitting if p in options.priors):
            arg = "conditional" if prior == "pixelcnn" else f"{prior},conditional"
            steps = options.prior_steps * (1 if codes else 3)
            run, found = run_of(f"prior:{arg}", steps, runs / f"{model}-{prior}", workdir)
            sample = jax.jit(partial(run.system.sample, n=len(label)))
            images = decode(sample(run.members()[0], jax.random.key(2), label=label))
            bits = {"bits": found.get("nll", found.get("nll_bound")) / math.log(2)} if codes else {}
            note(prior, images, accuracy=accuracy(logits, images, label), **bits)
            np.save(folder / f"{model}-{prior}.npy", np.uint8(np.round(255 * images[:10])))
    return numbers


def by_parts(function):
    """Images of many latents, 100 at a time, in [0, 1]."""
    return lambda z: np.clip(np.concatenate([function(z[i:i + 100]) for i in range(0, len(z), 100)]), 0.0, 1.0)


def accuracy(logits, images, label) -> float:
    """Share of the images in which the classifier reads the label."""
    return float((np.asarray(logits(images)).argmax(-1) == np.asarray(label)).mean())


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a line for each autoencoder and prior, then a line for each autoencoder and a column for each prior."""
    lines = [f"| autoencoder | prior | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for model, numbers in rows.items():
        for prior in (NO_PRIOR, *PRIORS):
            if f"frechet, {prior}" in numbers:
                found = [numbers.get(f"{name}, {prior}") for name in MEASURES]
                cells = ["" if values is None else f"{values[0]:.3g}" for values in found]
                lines.append(f"| {model} | {prior} | {' | '.join(cells)} |")
    columns = [p for p in (NO_PRIOR, *PRIORS) if any(f"frechet, {p}" in numbers for numbers in rows.values())]
    lines += ["", "Frechet / bits / accuracy:", "", f"| autoencoder | {' | '.join(columns)} |",
              "|---" * (1 + len(columns)) + "|"]
    for model, numbers in rows.items():
        cells = [" / ".join(f"{numbers[f'{name}, {prior}'][0]:.3g}" for name in ("frechet", "bits", "accuracy")
                            if f"{name}, {prior}" in numbers) for prior in columns]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(rows, folder: Path, path: Path) -> None:
    """A line of samples for each autoencoder and prior, a class in each column."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pairs = [(m, p) for m in rows for p in PRIORS if f"frechet, {p}" in rows[m] and (folder / f"{m}-{p}.npy").exists()]
    if not pairs:
        return
    lines = [np.concatenate(list(np.load(folder / f"{model}-{prior}.npy")[..., 0]), 1) for model, prior in pairs]
    side, width = lines[0].shape
    _, ax = plt.subplots(figsize=(6.5, 0.5 * len(pairs) + 0.3))
    ax.imshow(np.concatenate(lines), cmap="gray", vmin=0, vmax=255)
    for i, (before, now) in enumerate(itertools.pairwise(pairs), 1):
        if before[0] != now[0]:  # another autoencoder
            ax.axhline(i * side - 0.5, color="white", linewidth=1.5)
    ax.set_yticks([(i + 0.5) * side for i in range(len(pairs))], [f"{m}, {p}" for m, p in pairs], fontsize=7)
    ax.set_xticks([(i + 0.5) * width / 10 for i in range(10)], range(10), fontsize=7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    plt.savefig(path, dpi=110, bbox_inches="tight")


def main(_):
    options = flags.FLAGS
    cache = Path(options.runs).absolute() / "compiled" if options.runs else tempfile.mkdtemp()
    jax.config.update("jax_compilation_cache_dir", str(cache))  # many priors are the same program
    dataset = data.load(dict(source="digits"))
    test = dataset.test_transform(dataset.test[np.arange(len(dataset.test))], jax.random.key(0))
    features, logits = jax.jit(metrics.digit_features()), jax.jit(metrics.digit_logits())
    path = Path(options.output) / "prior_table"
    samples = Path(options.output) / "prior_samples"
    samples.mkdir(parents=True, exist_ok=True)
    rows = measured(MODELS, options.models, lambda model: row(model, options, test, features, logits, samples), table,
                    path, {name: options[name].value for name in ("steps", "prior_steps")},
                    f"{options.steps} updates of each autoencoder, {options.prior_steps} of each prior on codes, one "
                    f"seed; bits of the codes of a test image, {NO_PRIOR}: at log2 K for each code; shares of 1,000 "
                    f"samples.")
    figure(rows, samples, path.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
