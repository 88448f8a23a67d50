"""Autoregressive models of pixels, tokens and scales by one protocol: bits, sample quality, steps and time.

    python experiments/ar_zoo.py                               # all, 600 updates
    python experiments/ar_zoo.py --models=axial,next-scale     # some of them
    python experiments/ar_zoo.py --steps=3000 --samples=1000

Eight class-conditional models of 60,000 parameters each, a tokenizer's included, see the same 14 x 14 digits of 8 grey
levels for the same number of updates (where there is a tokenizer, two fifths are its own). `bits` are those of a pixel
of a test image given its class: exact for pixels, and for tokens and scales the upper bound that the codes' likelihood
and the decoder's likelihood of the same grey levels make (`codes` is their share of it). For the masked model that of
the codes is a bound too. `steps` are passes of networks one after the other, the decoder's included; `ms/image` is
processor time of batches of 50 after compilation, `ms/update` that of training, weighted by updates.

`frechet`, `precision` and `recall` (k = 3) are against the 1,000 test images on the features of the digit classifier,
`score` is exp of the information between its answer and the image (at most 10), and `accuracy` the share of samples in
which it reads the class that was asked for. `(independent)` is a categorical for each pixel and class, `(training
images)` has images of the training set as its samples. Beside the table in `experiments/results/`, or `--output`, lie a
figure of samples, a class in each column, and of the ways to go on from the upper half of a test image, for models that
can. Rows that stand there from a run with the same settings stay, those of `--models` are measured anew.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags
from claims import tables
from claims.ar_models import AR_MODELS, CLASSES, LEVELS, Fitted, fitted, images, independent, measured, of_split

HERE = Path(__file__).parent
INDEPENDENT, TRAINING = "(independent)", "(training images)"
ROWS = (*AR_MODELS, INDEPENDENT, TRAINING)
COLUMNS = {"parameters": "parameters", "steps": "steps", "bits": "bits", "rate": "codes", "frechet": "frechet",
           "precision": "precision", "recall": "recall", "score": "score", "accuracy": "accuracy",
           "image_ms": "ms/image", "update_ms": "ms/update"}
flags.DEFINE_list("models", list(ROWS), f"Among {', '.join(ROWS)}.")
flags.DEFINE_integer("steps", 600, "Updates of each model.")
flags.DEFINE_integer("batch", 32, "Examples of an update.")
flags.DEFINE_integer("samples", 300, "Samples of each model, a multiple of 50.")
flags.DEFINE_string("output", str(HERE / "results"), "Folder of ar_zoo.json, .md and .png.")


def of_training_set() -> Fitted:
    """Images of the training set in the order of the classes that are asked for."""
    x, label = of_split(images().train)
    groups = [x[label == c] for c in range(CLASSES)]
    turn = np.zeros(CLASSES, int)

    def draw(key, wanted):
        drawn = []
        for c in np.asarray(wanted):
            drawn.append(groups[c][turn[c]])
            turn[c] += 1
        return np.stack(drawn)

    return Fitted(draw, np.nan, 0.0, 0, 0.0, None)


def row(name: str, options, folder: Path) -> dict[str, list[float]]:
    """The numbers of one model; its samples and completions go to `folder`."""
    if name in AR_MODELS:
        model = AR_MODELS[name]
        found, steps = fitted(model, options.steps, options.batch), model.steps(model.map)
    else:
        found, steps = (independent(), 1) if name == INDEPENDENT else (of_training_set(), 0)
    numbers, drawn = measured(found, steps, options.samples)
    if name == TRAINING:
        numbers = {key: numbers[key] for key in ("frechet", "precision", "recall", "score", "accuracy")}
    picture = {"samples": drawn[:2 * CLASSES]}
    if found.complete is not None:
        x, label = of_split(images().test)
        picture["completions"] = np.asarray(found.complete(jax.random.key(0), jnp.asarray(x[:CLASSES]),
                                                           jnp.asarray(label[:CLASSES])))
    np.savez_compressed(folder / f"{name}.npz", **{key: _levels(x) for key, x in picture.items()})
    return {key: [value] for key, value in numbers.items()}


def _levels(x):
    return np.round(x * (LEVELS - 1)).astype(np.uint8)


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: what a model is, then its numbers."""
    facts = ("family", "order", "at once")
    lines = [f"| model | {' | '.join((*facts, *COLUMNS.values()))} |", "|---" * (1 + len(facts) + len(COLUMNS)) + "|"]
    for name, numbers in rows.items():
        model, cells = AR_MODELS.get(name), []
        told = (model.representation, model.order, model.parallelism) if model else ("", "", "")
        for column in COLUMNS:
            value = numbers.get(column, [None])[0]
            whole = column in ("parameters", "steps")
            cells.append("" if value is None or model is None and column in ("parameters", "rate", "update_ms")
                         or column == "rate" and not value else f"{value:,.0f}" if whole else f"{value:.3g}")
        bound = model is not None and model.tokenizer is not None
        cells[2] = f"<= {cells[2]}" if bound else cells[2]
        lines.append(f"| {' | '.join((name, *told, *cells))} |")
    return "\n".join(lines) + "\n"


def figure(folder: Path, path: Path) -> None:
    """Two lines of samples for each model, a class in each column; completions of test images on the right."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stored = {name: {key: x / (LEVELS - 1) for key, x in np.load(folder / f"{name}.npz").items()}
              for name in ROWS if (folder / f"{name}.npz").exists()}
    lines, axes = plt.subplots(len(stored) + 1, 2, figsize=(11, 1.05 * len(stored) + 0.8), squeeze=False)
    test = of_split(images().test)[0][:CLASSES, ..., 0]
    half = np.where(np.arange(test.shape[1])[:, None] < test.shape[1] // 2, test, 0.5)
    for ax, (name, picture) in zip(axes[:-1], stored.items(), strict=True):
        samples = picture["samples"].reshape(2, CLASSES, *test.shape[1:])
        _show(ax[0], np.concatenate([np.concatenate(list(line), 1) for line in samples]), name)
        if "completions" in picture:
            _show(ax[1], np.concatenate(list(picture["completions"][..., 0]), 1), "")
        else:
            ax[1].axis("off")
    _show(axes[-1, 0], np.concatenate(list(test), 1), "test images")
    _show(axes[-1, 1], np.concatenate(list(half), 1), "given")
    lines.tight_layout(h_pad=0.2)
    lines.savefig(path, dpi=110, bbox_inches="tight")


def _show(ax, picture, name):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def main(_):
    options, path = flags.FLAGS, Path(flags.FLAGS.output) / "ar_zoo"
    folder = path.with_name("ar_zoo_samples")
    folder.mkdir(parents=True, exist_ok=True)
    tables.measured(dict.fromkeys(ROWS), options.models, lambda name: row(name, options, folder), table, path,
                    {name: options[name].value for name in ("steps", "batch", "samples")},
                    f"14x14 digits of 8 grey levels and their classes, {options.steps} updates, one seed, "
                    f"{options.samples} samples; bits of a pixel.")
    figure(folder, path.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
