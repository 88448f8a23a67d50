"""Every autoencoder with every latent sampler: Frechet and kernel distance, error and likelihood on the digits.

    python experiments/cross_table.py                      # all models, 2 seeds, 3,000 steps: about two hours
    python experiments/cross_table.py --models=vae,wae     # some of them
    python experiments/cross_table.py --steps=300 --seeds=1

Every model has the same networks (784-512-16), data and number of updates; its samples come from its own prior, from
a mixture of 10 Gaussians, a flow and an autoregressive network, fitted afterwards to the codes of the training set.
Distances are between 1,000 samples and the test set on the features of a digit classifier. The numbers, the table and
a figure land in `experiments/results/`, or `--output`; rows that stand there from a run with the same settings stay,
those of `--models` are measured anew.
"""

import importlib.util
import tempfile
from pathlib import Path

import jax
import matplotlib
import numpy as np
from absl import app, flags
from claims.tables import measured
from claims.training import config_of as claim_config
from claims.training import nll, over, trained

from jaxae import data, metrics
from jaxae.systems.latent import prior

HERE = Path(__file__).parent
MODELS = {"ae": "wae:plain", "vae": "vae", "beta-vae": "vae:beta4", "vae-mixture": "vae:mixture", "vae-iaf": "vae:iaf",
          "vampprior": "vae:vampprior", "clusters": "vae:clusters", "iwae": "iwae", "iwae-2": "iwae:two_layers",
          "capacity": "vae:capacity", "info-vae": "vae:info", "mmd-vae": "vae:mmd", "autogen": "vae:autogen",
          "joint": "vae:joint", "beta-tc-vae": "vae:beta_tc", "factor-vae": "vae:factor", "dip-vae": "vae:dip",
          "spherical": "vae:spherical", "rae": "vae:rae", "unscented": "vae:unscented",
          "inverse-lipschitz": "vae:inverse_lipschitz", "population": "vae:population", "generated": "vae:generated",
          "wae-mmd": "wae", "wae-gan": "wae:gan", "swae": "wae:sliced", "sinkhorn": "wae:sinkhorn",
          "coupled": "coupled:digits"}
SAMPLERS = ("prior", "mixture", "flow", "autoregressive")
flags.DEFINE_list("models", list(MODELS), f"Among {', '.join(MODELS)}.")
flags.DEFINE_integer("steps", 3000, "Updates of each model.")
flags.DEFINE_integer("prior_steps", 1000, "Updates of each flow and autoregressive network.")
flags.DEFINE_integer("seeds", 2, "Members of each model, side by side.")
flags.DEFINE_integer("nll_samples", 500, "Importance samples of the likelihood.")
flags.DEFINE_string("output", str(HERE / "results"), "Folder of cross_table.json, .md and .png.")


def config_of(model: str, steps: int, seeds: int):
    """The config of a row, with the networks that all have."""
    name, _, arg = MODELS[model].partition(":")
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    same = dict(network="mlp", features=(512,), latent=16, latents=(64, 16), activation="relu", likelihood="bernoulli")
    config.model.update({key: value for key, value in same.items() if key in config.model})
    if model == "swae":  # in the plane and with a ring by its config: here as the others
        config.model.update(dict(prior="normal", cost="squared", cost_scale=0.05))
    config.data.binarize = "none"
    config.optim.eps = 1e-8
    config.update(dict(steps=steps, batch_size=100, ensemble=seeds))
    return config


def fitted(kind: str, z, steps: int):
    """A prior trained on codes [n d] by the same loop as the models: its sampler `(key, n) -> [n d]`."""
    config = claim_config(prior, steps, prior=kind, hidden=64, layers=6, rate=2e-3)
    run = trained(config, data.from_arrays(z, test_fraction=0.1))
    return lambda key, n: run.system.sample(run.members[0], key, n)


def row(model: str, options, dataset, features, real) -> dict[str, list[float]]:
    """The numbers of one model, one for each seed."""
    config = config_of(model, options.steps, options.seeds)
    run = trained(config, dataset, config.prepare_every)
    system, numbers = run.system, {}
    for member in run.members:
        errors = over(lambda b, m=member: metrics.mse(b["x"], system.reconstruct(m, b["x"])), dataset.test, dataset)
        numbers.setdefault("mse", []).append(float(errors.mean()))
        z = over(lambda b, m=member: system.encode(m, b["x"]), dataset.train, dataset)
        draw = {"mixture": fitted("gaussian_mixture", z, 1), "flow": fitted("flow", z, options.prior_steps),
                "autoregressive": fitted("autoregressive", z, options.prior_steps)}
        for sampler in SAMPLERS:
            def images(key, s=sampler, m=member, d=draw):
                if s == "prior":
                    return system.sample(m, key, 1000)
                code_key, rest = jax.random.split(key)  # a decoder may draw too, as one of several layers does
                return system.decode(m, d[s](code_key, 1000), rest)
            found = np.asarray(jax.jit(lambda key, make=images: features(make(key)))(jax.random.key(3)))
            numbers.setdefault(f"frechet, {sampler}", []).append(float(metrics.frechet_distance(found, real)))
            numbers.setdefault(f"kernel, {sampler}", []).append(float(metrics.kernel_distance(found, real)))
        if system.log_weights is not None:
            numbers.setdefault("nll", []).append(nll(run, member, dataset, options.nll_samples))
    return numbers


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: mean +- standard deviation over seeds."""
    columns = ["mse", "nll", *(f"{kind}, {s}" for kind in ("frechet", "kernel") for s in SAMPLERS)]
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for model, numbers in rows.items():
        cells = [f"{np.mean(numbers[c]):.4g} +- {np.std(numbers[c], ddof=min(1, len(numbers[c]) - 1)):.2g}"
                 if c in numbers else "" for c in columns]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(rows, path: Path) -> None:
    """Frechet distance of every model by sampler, as bars."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    place, width = np.arange(len(rows)), 0.2
    _, axes = plt.subplots(figsize=(max(6.0, 1.5 + 0.7 * len(rows)), 4.5))
    for i, sampler in enumerate(SAMPLERS):
        values = np.array([numbers[f"frechet, {sampler}"] for numbers in rows.values()])
        axes.bar(place + (i - 1.5) * width, values.mean(1), width, label=sampler, yerr=values.std(1))
    axes.set(ylabel="Frechet distance to the test set", xticks=place, yscale="log")
    axes.set_xticklabels(rows, rotation=45, ha="right")
    axes.legend(title="latents from", ncols=len(SAMPLERS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plt.tight_layout()
    plt.savefig(path, dpi=110)


def main(_):
    options = flags.FLAGS
    # Samplers of all models are the same programs on other codes: compiled once.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    dataset, features = data.load(dict(source="digits")), metrics.digit_features()
    real = over(lambda b: features(b["x"]), dataset.test, dataset)
    path = Path(options.output) / "cross_table"
    rows = measured(MODELS, options.models, lambda model: row(model, options, dataset, features, real), table, path,
                    {name: options[name].value for name in ("steps", "prior_steps", "seeds", "nll_samples")},
                    f"{options.steps} updates, {options.seeds} seeds; nll: nats, {options.nll_samples} importance "
                    f"samples.")
    figure(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
