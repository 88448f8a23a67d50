"""Every quantizer at about 1,024 codes: reconstruction error, usage, perplexity and bits of an image.

    python experiments/quantizer_table.py                        # all, 3 seeds, 400 updates: 12 minutes on 1 core
    python experiments/quantizer_table.py --models=fsq,rotation  # some of them
    python experiments/quantizer_table.py --steps=2000

Every model has the same convolutions, data (14x14 digits, 7x7 positions) and number of updates, and 10 bits a position:
one code of 1,024 (1,000 for FSQ), 2 stages or 2 heads of 32, or 5 dimensions of 4 values; 2 heads of 2 stages of 6
(`grouped`) are 10.3. Numbers are of the 1,000 test digits, usage and perplexity of each codebook, averaged; `bits` is
what an image costs at log2 K for each code, `entropy` what it costs at the entropy of each codebook's use. The numbers
and the table land in `experiments/results/`, or `--output`; rows that stand there from a run with the same settings
stay, those of `--models` are measured anew.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from claims.quantizers import on_digits
from claims.tables import measured
from claims.training import digits, mean_sd, over, trained

from jaxae import metrics, quantizers

HERE = Path(__file__).parent
# A codebook starts at random outputs of the encoder; no code is revived where `revive` is not given, and with decay
# 0.99 none before update 459, when a code that was never used is counted 0.01 times a batch.
MODELS = {"vq": dict(codes=1024, codebook="gradient"),
          "vq-uniform": dict(codes=1024, codebook="gradient", start="uniform"),
          "ema": dict(codes=1024, revive=0.01),
          "cosine": dict(codes=1024, distance="cosine", revive=0.01),
          "rotation": dict(codes=1024, decay=0.8, estimator="rotation"),
          "simvq": dict(quantizer="simvq", codes=1024),
          "gumbel": dict(quantizer="gumbel", codes=1024),
          "fsq": dict(quantizer="finite_scalar", levels=quantizers.FSQ_LEVELS[1024]),
          "lfq": dict(quantizer="lookup_free", width=10, entropy_weight=0.01),
          "bsq": dict(quantizer="binary_spherical", width=10),
          "residual": dict(codes=32, depth=2, revive=0.01),
          "product": dict(codes=32, heads=2, revive=0.01),
          "grouped": dict(codes=6, heads=2, depth=2, revive=0.01),
          "residual-fsq": dict(quantizer="finite_scalar", levels=(4, 4, 2), depth=2),
          "latent": dict(quantizer="latent", codes=4, width=5, beta=0.01)}
COLUMNS = ("mse", "usage", "perplexity", "bits", "entropy")
flags.DEFINE_list("models", list(MODELS), f"Among {', '.join(MODELS)}.")
flags.DEFINE_integer("steps", 400, "Updates of each model.")
flags.DEFINE_integer("seeds", 3, "Members of each model, side by side.")
flags.DEFINE_string("output", str(HERE / "results"), "Folder of quantizers.json and .md.")


def row(model: str, steps: int, seeds: int, dataset) -> dict[str, list[float]]:
    """The numbers of one model, one for each seed."""
    run = trained(on_digits(steps, seeds, **MODELS[model]), dataset)
    members, latent = jax.tree.map(lambda *leaves: jnp.stack(leaves), *run.members), run.system.latent
    encode = jax.vmap(run.system.encode, (0, None))
    indices = over(lambda b: encode(members, b["x"]).swapaxes(0, 1), dataset.test, dataset)  # [n members *latent]
    cells, books = math.prod(latent.shape), latent.shape[2] if len(latent.shape) > 2 else 1
    by_book = jnp.asarray(indices.reshape(len(indices), seeds, -1, books).transpose(1, 3, 0, 2))  # [members books n m]
    counts = jax.vmap(jax.vmap(lambda i: metrics.code_counts(i, latent.codes)))(by_book)
    entropy = cells * jnp.log2(metrics.perplexity(counts)).mean(1)
    numbers = {name: run.test[name] for name in ("mse", "usage", "perplexity")} | {
        "bits": [cells * math.log2(latent.codes)] * seeds, "entropy": entropy}
    return {name: [float(value) for value in values] for name, values in numbers.items()}


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: mean +- standard deviation over seeds."""
    lines = [f"| quantizer | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for model, numbers in rows.items():
        cells = [f"{numbers[c][0]:.4g}" if c == "bits" else mean_sd(numbers[c]) for c in COLUMNS]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(_):
    options, dataset = flags.FLAGS, digits()
    measured(MODELS, options.models, lambda model: row(model, options.steps, options.seeds, dataset), table,
             Path(options.output) / "quantizers", {name: options[name].value for name in ("steps", "seeds")},
             f"14x14 digits, 7x7 positions, {options.steps} updates, {options.seeds} seeds; bits of an image.")


if __name__ == "__main__":
    app.run(main)
