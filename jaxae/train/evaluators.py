"""Metrics that need a whole data set: functions of (system, variables, dataset, key, config) named in the config."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxae import metrics
from jaxae.data import Dataset
from jaxae.systems.base import State, System, Variables, inputs_of, variables
from jaxae.train import ensemble
from jaxae.train.config import ConfigError

_CHUNK = 100
_MOST = 10_000  # rows of a split that scores of disentanglement see


def image_quality(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """PSNR in decibels, SSIM and MSE of test reconstructions, pixels in [0, 1]."""
    def quality(batch):
        x, x_hat = batch["x"], system.reconstruct(model, *inputs_of(system, batch))
        window = min(11, x.shape[1] - (x.shape[1] + 1) % 2, x.shape[2] - (x.shape[2] + 1) % 2)
        return {"psnr": metrics.psnr(x, x_hat), "ssim": metrics.ssim(x, x_hat, window=window),
                "mse": metrics.mse(x, x_hat)}

    rows = _over_test(jax.jit(quality), dataset, key)
    return {name: np.mean(rows[name]) for name in rows}


def waveform_quality(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """Scale-invariant ratio of signal to distortion of test reconstructions in decibels, of clips with any sound, and
    their mean squared error."""
    def quality(batch):
        x, x_hat = batch["x"], system.reconstruct(model, *inputs_of(system, batch))
        return {"si_sdr": metrics.si_sdr(x[..., 0], x_hat[..., 0]), "mse": metrics.mse(x, x_hat),
                "sounds": jnp.abs(x).max((1, 2)) > 1e-3}

    rows = _over_test(jax.jit(quality), dataset, key)
    return {"si_sdr": np.mean(rows["si_sdr"], where=rows["sounds"]), "mse": np.mean(rows["mse"])}


def nll(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """-log p(x) in nats by importance sampling, `nll_samples` draws, and bits per dimension."""
    samples = config.get("nll_samples", 500)

    def estimate(batch):
        def log_weights(key, x, k):
            return system.log_weights(model, key, x, k)
        return {"nll": metrics.importance_sampled_nll(log_weights, batch["key"], batch["x"], samples, 50)}

    values = _over_test(jax.jit(estimate), dataset, key)["nll"]
    return {"nll": np.mean(values)}


def frechet(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """Frechet and kernel distance of prior samples and of reconstructions to the test set, on digit features; of images
    of another size than digits, or in colour, on those of each colour (`metrics.colour_features`)."""
    digits = dataset.test.spec["x"].shape == (28, 28, 1)
    features = metrics.digit_features() if digits else metrics.colour_features()

    def described(batch):
        drawn = system.sample(model, batch["key"], batch["x"].shape[0])
        rebuilt = system.reconstruct(model, *inputs_of(system, batch))
        return {"test": features(batch["x"]), "reconstruction": features(rebuilt), "sample": features(drawn)}

    rows = {name: jnp.asarray(value) for name, value in _over_test(jax.jit(described), dataset, key).items()}
    found = {}
    for name in ("sample", "reconstruction"):
        found[f"frechet_{name}"] = metrics.frechet_distance(rows[name], rows["test"])
        found[f"kernel_{name}"] = metrics.kernel_distance(rows[name], rows["test"])
    return found


def probe(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """Test accuracy of a linear classifier on the latents; codes as one-hot vectors."""
    def coded(batch):
        z = system.encode(model, *inputs_of(system, batch))
        z = jax.nn.one_hot(z, system.latent.codes) if system.latent.codes else z
        return {"z": z.reshape(z.shape[0], -1), "label": batch["label"]}

    run = jax.jit(coded)
    train = _over(run, dataset.train, dataset, key)
    test = _over(run, dataset.test, dataset, key)
    classes = int(train["label"].max()) + 1
    rows = (jnp.asarray(part) for part in (train["z"], train["label"], test["z"], test["label"]))
    accuracy = metrics.linear_probe(*rows, classes)
    return {"probe_accuracy": accuracy}


def disentanglement(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """How far single latents hold single ground-truth `factors`: MIG, modularity, SAP, DCI by `dci_predictor`
    ('logistic'), and the scores of the FactorVAE and beta-VAE papers by `votes` (10,000).

    Of the first 10,000 rows; SAP and DCI predict the test split. A categorical latent is one code. Factors with one
    value only, and for the last two those with a value in one row only, are left out.
    """
    votes, predictor = config.get("votes", 10_000), config.get("dci_predictor", "logistic")

    def coded(batch):
        return {"z": _codes(system.encode(model, *inputs_of(system, batch)), config), "factors": batch["factors"]}

    run = jax.jit(coded)
    train, test = (_over(run, s.take(_MOST) if len(s) > _MOST else s, dataset, key)
                   for s in (dataset.train, dataset.test))
    kept = np.all([(part["factors"] != part["factors"][0]).any(0) for part in (train, test)], axis=0)
    z, test_z, factors, test_factors = train["z"], test["z"], train["factors"][:, kept], test["factors"][:, kept]
    parts = metrics.dci(z, factors, test_z, test_factors, predictor)
    paired = np.stack([np.unique(column, return_counts=True)[1].min() > 1 for column in factors.T])

    @jax.jit
    def scores(key, z, factors, paired):
        by_votes = metrics.factor_vae_score(key, z, paired, num_train=votes, num_eval=votes // 2)
        return metrics.mig(z, factors), metrics.modularity(z, factors), by_votes.accuracy

    mig, modularity, by_votes = scores(key, z, factors, factors[:, paired])
    by_pairs = metrics.beta_vae_score(key, z, factors[:, paired], num_train=votes, num_eval=votes // 2)
    return {"mig": mig, "modularity": modularity, "sap": metrics.sap(z, factors, test_z, test_factors),
            "dci_disentanglement": parts.disentanglement, "dci_completeness": parts.completeness,
            "dci_informativeness": parts.informativeness, "factor_vae_score": by_votes,
            "beta_vae_score": by_pairs.accuracy}


def infomec(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """InfoM, InfoE and InfoC of the first 10,000 training rows with respect to their `factors`, and the number of
    active latents. Codes are discrete, vectors continuous; factors with one value only are left out."""
    def coded(batch):
        return {"z": _codes(system.encode(model, *inputs_of(system, batch)), config), "factors": batch["factors"]}

    rows = _over(jax.jit(coded), dataset.train.take(_MOST) if len(dataset.train) > _MOST else dataset.train, dataset,
                 key)
    factors = rows["factors"][:, (rows["factors"] != rows["factors"][0]).any(0)]
    scores = metrics.infomec(factors, rows["z"], discrete=bool(system.latent.codes))
    return {"infom": scores.infom, "infoe": scores.infoe, "infoc": scores.infoc, "active_latents": scores.active.sum()}


def clusters(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """Test accuracy of the most likely categories as labels, under the best one-to-one matching; several categorical
    latents are one, their product."""
    sizes = tuple(config.model.get("categories", ()))
    if not sizes:
        raise ConfigError(f"evaluator 'clusters' needs categorical latents, which {config.system} does not have")

    def coded(batch):
        return {"z": _codes(system.encode(model, *inputs_of(system, batch)), config), "label": batch["label"]}

    rows = _over_test(jax.jit(coded), dataset, key)
    cluster = np.ravel_multi_index(tuple(rows["z"][:, -len(sizes):].astype(np.int64).T), sizes)
    return {"cluster_accuracy": metrics.cluster_accuracy(cluster, rows["label"])}


def dark_matter(system: System, model: Variables, dataset: Dataset, key: jax.Array, config) -> dict[str, Any]:
    """Share of the reconstruction error, and of its squared norm, that a linear map of x predicts, and the variance
    left unexplained without and with that prediction. Maps are fitted to the first 10,000 training rows, of which
    there should be 50 for each dimension."""
    def pairs(batch):
        x, x_hat = batch["x"], system.reconstruct(model, *inputs_of(system, batch))
        return {"x": x.reshape(x.shape[0], -1), "x_hat": x_hat.reshape(x.shape[0], -1)}

    run = jax.jit(pairs)
    known = _over(run, dataset.train.take(_MOST) if len(dataset.train) > _MOST else dataset.train, dataset, key)
    test = _over(run, dataset.test, dataset, key)
    x, x_hat = (jnp.concatenate([known[name], test[name]]) for name in ("x", "x_hat"))
    found = jax.jit(metrics.decompose_error, static_argnums=2)(x, x_hat, len(known["x"]))
    return {"error_r2": found.r2_vector, "error_norm_r2": found.r2_norm, "fvu": found.fvu,
            "fvu_nonlinear": found.fvu_nonlinear}


EVALUATORS: dict[str, Callable[..., dict[str, Any]]] = {
    "image_quality": image_quality, "nll": nll, "frechet": frechet, "probe": probe, "disentanglement": disentanglement,
    "infomec": infomec, "clusters": clusters, "dark_matter": dark_matter, "waveform_quality": waveform_quality}
_NEEDS = {"image_quality": "reconstruct", "nll": "log_weights", "frechet": "sample", "probe": "encode",
          "disentanglement": "encode", "infomec": "encode", "clusters": "encode", "dark_matter": "reconstruct",
          "waveform_quality": "reconstruct"}
# What the data must have besides x.
_READS = {"probe": "label", "disentanglement": "factors", "infomec": "factors", "clusters": "label"}


def run_evaluators(config: ConfigDict, system: System, state: State, dataset: Dataset,
                   names: Sequence[str] | None = None) -> dict[str, Any]:
    """The metrics of `config.evaluators`: scalars, or `[members]`.

    Args:
      config: of the run.
      system: of one member.
      state: of all members.
      dataset: the run's.
      names: evaluators to run in place of the config's.

    Raises:
      ConfigError: for a name that is not there, or a model that lacks what it needs.
    """
    names = tuple(config.evaluators if names is None else names)
    check_evaluators(names, system, config.system, dataset)
    found: dict[str, Any] = {}
    members = ensemble.size(config)
    for name in names:
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        rows = [EVALUATORS[name](system, variables(ensemble.select(state, i) if members > 1 else state), dataset,
                                 key, config) for i in range(members)]
        for metric in rows[0]:
            values = np.asarray([float(row[metric]) for row in rows])
            found[metric] = values if members > 1 else values[0]
    return found


def check_evaluators(names: Sequence[str], system: System, of: str, dataset: Dataset | None = None) -> None:
    """Raises ConfigError for a name that is not there, or a model, the system named `of`, or data that lack what it
    needs."""
    for name in names:
        if name not in EVALUATORS:
            raise ConfigError(f"evaluator {name!r} is not one of {', '.join(EVALUATORS)}")
        if getattr(system, _NEEDS[name]) is None:
            raise ConfigError(f"evaluator {name!r} needs `{_NEEDS[name]}`, which {of} does not have")
        needs = _READS.get(name, "x")
        if dataset is not None and needs not in dataset.test.spec:
            raise ConfigError(f"evaluator {name!r} needs data with `{needs}`, which {dataset.name} does not have")


def _codes(z, config):
    """Latents `[n ...]` as columns `[n d]`; categorical ones (`model.categories`, one-hot at the end) as numbers."""
    z, sizes = z.reshape(z.shape[0], -1), tuple(config.model.get("categories", ()))
    ends = np.cumsum((z.shape[1] - sum(sizes), *sizes))
    numbers = [z[:, a:b].argmax(-1)[:, None] for a, b in zip(ends, ends[1:], strict=False)]
    return jnp.concatenate([z[:, :ends[0]], *numbers], axis=1)


def _over_test(function, dataset: Dataset, key):
    return _over(function, dataset.test, dataset, key)


def _over(function, source, dataset: Dataset, key) -> dict[str, np.ndarray]:
    """`function(batch)` over a split, batch by batch; its per-example arrays `[n ...]` joined."""
    rows = []
    for start in range(0, len(source), _CHUNK):
        # A ragged end is filled from the front, so that one program serves, and cut again.
        index = np.arange(start, start + _CHUNK) % len(source)
        batch_key = jax.random.fold_in(key, start)
        batch = dataset.test_transform(source[index], batch_key) | {"key": batch_key}
        kept = min(_CHUNK, len(source) - start)
        rows.append({name: np.asarray(value)[:kept] for name, value in function(batch).items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
