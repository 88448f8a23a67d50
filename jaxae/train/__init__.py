"""One training loop with two doors: `train(config, workdir)` for runs, `fit(system, data, ...)` in memory."""

from jaxae.train.loop import fit, train

__all__ = ["fit", "train"]
