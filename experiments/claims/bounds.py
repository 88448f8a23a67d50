"""Claims of the papers on bounds of the likelihood."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import config_of, digits, mean_sd, nll, over, trained
from jaxae import losses, metrics
from jaxae.systems.gaussian import iwae, two_layer_iwae, vae


def _likelihood_and_units(config, dataset):
    """NLL by 5,000 samples and active units on the test set, one of each for every seed."""
    run = trained(config, dataset)
    nats, units = [nll(run, member, dataset, 5000) for member in run.members], []
    for member in run.members:
        means = over(lambda b, m=member: run.system.encode(m, b["x"]), dataset.test, dataset)
        units.append(int(metrics.active_units(jnp.asarray(means))))
    return np.asarray(nats), np.asarray(units)


@claim(
    paper="P087",
    budget=300,
    threshold={"nats": 0.3},
    sentence="after the same passes an IWAE (k = 5) has a lower test NLL by 5,000 samples than a VAE, and no fewer "
    "active units",
)
def iwae_beats_vae_at_equal_passes(threshold):
    """The 1-layer model on 28x28 digits, dynamic binarisation, 30 passes, 3 seeds."""
    dataset, found, nats, units = digits("dynamic", 28), {}, {}, {}
    for name, module, keys in (("vae", vae, {}), ("iwae", iwae, {"samples": 5})):
        config = config_of(
            module, 6000, seeds=3, batch_size=20, features=(200, 200), latent=50, activation="tanh", **keys
        )
        config.optim.eps = 1e-4
        nats[name], units[name] = _likelihood_and_units(config, dataset)
        found |= {f"{name}_nll": mean_sd(nats[name]), f"{name}_active_units": float(units[name].mean())}
    gain = nats["vae"] - nats["iwae"]
    holds = gain.mean() >= threshold["nats"] and units["iwae"].mean() >= units["vae"].mean()
    return Outcome(bool(holds), found | {"gain_nats": mean_sd(gain)}, (0, 1, 2))


@claim(
    paper="P087",
    budget=300,
    threshold={"nats": 0.3},
    sentence="so it is for the model of two stochastic layers, k = 5 against the same model with k = 1",
)
def two_layer_iwae_beats_its_vae(threshold):
    """784-200-200-100-100-100-50 on 28x28 digits, dynamic binarisation, 30 passes, 2 seeds."""
    dataset, found, nats = digits("dynamic", 28), {}, {}
    for k in (1, 5):
        config = config_of(two_layer_iwae, 6000, seeds=2, batch_size=20, samples=k)
        config.optim.eps = 1e-4
        nats[k], units = _likelihood_and_units(config, dataset)
        found |= {f"nll_{k}": mean_sd(nats[k]), f"active_units_{k}": float(units.mean())}
    gain = nats[1] - nats[5]
    return Outcome(bool(gain.mean() >= threshold["nats"]), found | {"gain_nats": mean_sd(gain)}, (0, 1))


@claim(
    paper="P087",
    budget=60,
    threshold={"standard_errors": 3.0, "stl_standard_errors": 10.0},
    sentence="gradient estimators iwae, dreg and sampled agree in expectation, stl does not, and from k = 1 to 256 the "
    "signal-to-noise ratio of the encoder's gradient falls for iwae and rises for dreg",
)
def gradient_estimators(threshold):
    """A linear-Gaussian model with an encoder that is off by a little, 20,000 repeats."""
    x, repeats = jnp.array([[1.3]]), 20_000

    def gradient(key, phi, k, estimator):
        def loss(phi):
            noise_key, choice = jax.random.split(key)
            mean, log_std = phi[0] * x, phi[1] + jnp.zeros((1, 1))
            z = mean + jnp.exp(log_std) * jax.random.normal(noise_key, (k, 1, 1))

            def log_w(theta, z, q):
                normal = jax.scipy.stats.norm.logpdf
                return (normal(z, 0, 1) + normal(x, z, 1.0) - normal(z, q[0], jnp.exp(q[1])))[..., 0]

            return losses.importance_weighted_loss(log_w, (), z, (mean, log_std), estimator, key=choice).loss.mean()

        return jax.grad(loss)(phi)

    phi, rows = jnp.array([0.35, -0.1]), {}
    wanted = [(e, 8) for e in ("iwae", "dreg", "sampled", "stl")] + [(e, k) for e in ("iwae", "dreg") for k in (1, 256)]
    for estimator, k in wanted:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), k), repeats)
        rows[estimator, k] = np.asarray(jax.jit(jax.vmap(lambda key, k=k, e=estimator: gradient(key, phi, k, e)))(keys))

    def apart(a, b):
        difference = rows[a, 8] - rows[b, 8]
        return float(np.abs(difference.mean(0) / (difference.std(0) / np.sqrt(repeats))).max())

    def ratio(e, k):
        return float(np.abs(rows[e, k].mean(0) / rows[e, k].std(0))[0])

    found = {
        "dreg_from_iwae": apart("dreg", "iwae"),
        "sampled_from_iwae": apart("sampled", "iwae"),
        "stl_from_iwae": apart("stl", "iwae"),
    } | {f"snr_{e}_{k}": ratio(e, k) for e in ("iwae", "dreg") for k in (1, 256)}
    holds = (
        max(found["dreg_from_iwae"], found["sampled_from_iwae"]) < threshold["standard_errors"]
        and found["stl_from_iwae"] > threshold["stl_standard_errors"]
        and found["snr_iwae_256"] < found["snr_iwae_1"]
        and found["snr_dreg_256"] > found["snr_dreg_1"]
    )
    return Outcome(holds, found)
