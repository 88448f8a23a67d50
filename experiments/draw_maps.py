"""Draws images for the semantic maps of the test split, of the trained size or larger, and measures them.

    python experiments/run.py --config=configs/semantic_vq.py
    python experiments/run.py --config=configs/prior.py:semantic --config.autoencoder=runs/semantic_vq \\
        --workdir=runs/semantic_prior
    python experiments/draw_maps.py --workdir=runs/semantic_prior
    python experiments/draw_maps.py --workdir=runs/semantic_prior --times=2

The workdir is that of the prior, which names its autoencoder. With `--times=2` maps have twice the side, and each code
is predicted from a window as large as the maps of codes of training (Alaniz et al. 2022, arXiv 2209.02536, after Esser
et al. 2021, arXiv 2012.09841).

The figure `drawn` (or `drawn_2x`) has, from above, maps, images drawn for them, their own images, and reconstructions
of these. The Frechet distance to the maps' own images is in the features of `jaxae.metrics.colour_features`, comparable
for one number and size of images; of scenes, whose classes can be read off the hues, mIoU and pixel accuracy tell how
well images agree with their maps. The numbers are in `drawn.json`.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxae import data, metrics
from jaxae.data.scenes import segment
from jaxae.systems.figures import coloured
from jaxae.systems.latent import separation
from jaxae.systems.latent.larger import code_window, draw_for_maps
from jaxae.train import main
from jaxae.train.config import ConfigError
from jaxae.train.figures import write_figures
from jaxae.train.logging import results_table, say
from jaxae.train.setup import open_run

flags.DEFINE_string("workdir", None, "Workdir of the prior's run.", required=True)
flags.DEFINE_integer("times", 1, "Sides of the maps over those of training.", lower_bound=1)
flags.DEFINE_integer("images", 200, "Maps, the first of the test split.", lower_bound=2)
flags.DEFINE_float("temperature", 1.0, "Of the prior.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of the draws.")


def report() -> None:
    """Draws and measures by the flags."""
    options, run = flags.FLAGS, open_run(flags.FLAGS.workdir)
    if not run.config.autoencoder or not run.config.model.given:
        raise ConfigError(f"{options.workdir} holds {run.config.system}: give the workdir of a run of "
                          "configs/prior.py:semantic")
    coder = open_run(run.config.autoencoder)
    shape, dataset = coder.dataset.test.spec["x"].shape, coder.dataset
    if options.times > 1:
        config = coder.config.data.copy_and_resolve_references()
        config.size, config.num_train = shape[0] * options.times, 2  # no training here
        dataset = data.load(config)
    count, classes = min(options.images, len(dataset.test)), coder.config.model.classes
    batch = dataset.test_transform(dataset.test[np.arange(count)], jax.random.key(options.seed))
    x, semantic = batch["x"], jnp.asarray(batch["semantic"], jnp.int32)
    prior, now = separation.prior_of(run.config.model, coder.system.latent, run.config.dtype), coder.members()[0]
    say(f"drawing {count} images of {x.shape[1]}x{x.shape[2]} pixels, each code from a window of "
        f"{'x'.join(map(str, code_window(coder.system, shape[:2])))} ...")
    drawn = draw_for_maps(coder.system, now, prior, run.members()[0].params, jax.random.key(options.seed), semantic,
                          shape, options.temperature, run.config.model.top_k or None)

    @jax.jit
    def again(now, x, semantic, codes):
        own = coder.system.encode(now, x, semantic).reshape(codes.shape)
        return jnp.clip(coder.system.decode(now, own), 0.0, 1.0)

    images = {"drawn": drawn.images, "reconstructed": again(now, x, semantic, drawn.codes)}
    features = jax.jit(metrics.colour_features())
    numbers = {f"frechet/{name}": float(metrics.frechet_distance(features(y), features(x)))
               for name, y in images.items()}
    if coder.config.data.source == "scenes":
        agree = jax.jit(partial(metrics.confusion_matrix, classes=classes))
        for name, y in images.items():
            confusion = agree(semantic, jnp.asarray(segment(np.asarray(y))))
            numbers |= {f"mean_iou/{name}": float(metrics.mean_iou(confusion)),
                        f"pixel_accuracy/{name}": float(metrics.pixel_accuracy(confusion))}
    folder, name = Path(options.workdir), "drawn" + (f"_{options.times}x" if options.times > 1 else "")
    (folder / f"{name}.json").write_text(json.dumps({"images": count, "metrics": numbers}, indent=2) + "\n")
    say(results_table(numbers))
    rows = coloured(semantic, classes), images["drawn"], x, images["reconstructed"]
    paths, _ = write_figures(folder / "figures", run.step, {name: np.stack([np.asarray(row[:8]) for row in rows])})
    say("figures: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main.run(report)
