"""Claims of the papers on objectives and bounds of variational autoencoders."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import config_of, digits, mean_sd, over, trained
from jaxae import data, losses, metrics
from jaxae.systems import latent_model
from jaxae.systems.gaussian import (
    autogen,
    capacity,
    info,
    joint,
)
from jaxae.train.setup import example_of


@claim(
    paper="P165",
    budget=60,
    threshold={"relative": 0.02, "nats": 0.05},
    sentence="a linear VAE whose KL is led to 1.5 nats reaches the rate-distortion function of a Gaussian source "
    "(reverse water-filling), and a fixed target with a huge gamma does not",
)
def capacity_reaches_rate_distortion(threshold):
    """Variances 4, 1 and 1/4; squared error + 10 |KL - C|, C from 0 to 1.5 nats."""
    scales, rng = np.array([2.0, 1.0, 0.5]), np.random.default_rng(0)
    x = (rng.normal(size=(60_000, 3)) * scales).astype(np.float32)
    dataset, found = data.from_arrays(x, test_fraction=0.2), {}
    # 'mse' is half the squared error: gamma 5 beside it is 10 beside the squared error.
    for name, gamma, start in (("ramp", 5.0, 0.0), ("fixed", 500.0, 1.5)):
        config = config_of(
            capacity,
            15_000,
            batch_size=1000,
            rate=5e-3,
            features=(),
            latent=3,
            likelihood="mse",
            gamma=gamma,
            capacity_start=start,
            capacity=1.5,
            capacity_steps=8000,
        )
        config.optim.update(dict(schedule="cosine", clip=10.0))
        run = trained(config, dataset)
        found |= {
            f"{name}_distortion": 2.0 * float(run.test["reconstruction"][0]),
            f"{name}_kl": float(run.test["kl"][0]),
        }
    best = float(losses.reverse_water_filling(jnp.asarray(scales**2), 1.5).distortion)
    holds = (
        abs(found["ramp_distortion"] / best - 1.0) < threshold["relative"]
        and abs(found["ramp_kl"] - 1.5) < threshold["nats"]
        and found["fixed_distortion"] > found["ramp_distortion"]
    )
    return Outcome(holds, found | {"water_filling": best})


@claim(
    paper="P033",
    budget=120,
    threshold={"elbo_at_least": 0.3, "info_at_most": 0.05},
    sentence="on two points the ELBO drives the codes away from the prior (KL(q(z) || p(z)) over 0.3 nat), InfoVAE "
    "and MMD-VAE do not (under 0.05)",
)
def infovae_keeps_the_aggregate_posterior(threshold):
    """Data -1 and +1, one Gaussian latent, a decoder of free variance; 8,000 steps."""
    x = np.where(np.arange(4096) % 2, 1.0, -1.0).astype(np.float32)[:, None]
    dataset, found = data.from_arrays(x, test_fraction=0.25), {}
    grid = jnp.linspace(-8.0, 8.0, 4001)
    for name, alpha, lam in (("elbo", 0.0, 1.0), ("info", 0.0, 1000.0), ("mmd", 1.0, 1000.0)):
        config = config_of(
            info,
            8000,
            batch_size=512,
            rate=3e-3,
            features=(32,),
            activation="tanh",
            latent=1,
            likelihood="gaussian_learned",
            alpha=alpha,
            lam=lam,
        )
        config.optim.clip = 5.0
        run = trained(config, dataset)
        model = run.members[0]
        family = jax.jit(lambda key, m=model, s=run.system: s.encode(m, jnp.array([[-1.0], [1.0]]), key))
        draws = np.asarray(jax.vmap(family)(jax.random.split(jax.random.key(0), 4000)))[..., 0]  # [draws 2]
        mean, std = draws.mean(0), np.maximum(draws.std(0), 1e-4)
        fine = np.unique(
            np.concatenate(
                [np.asarray(grid), *(m + s * np.linspace(-8, 8, 2001) for m, s in zip(mean, std, strict=True))]
            )
        )
        log_q = np.logaddexp(
            *(-0.5 * ((fine - m) / s) ** 2 - np.log(s) for m, s in zip(mean, std, strict=True))
        ) - np.log(2)
        log_p = -0.5 * fine**2
        found[f"{name}_kl"] = float(np.trapezoid(np.exp(log_q) / np.sqrt(2 * np.pi) * (log_q - log_p), fine))
        found[f"{name}_nll"] = float(run.test["reconstruction"][0])
    holds = (
        found["elbo_kl"] > threshold["elbo_at_least"]
        and found["info_kl"] < threshold["info_at_most"]
        and found["mmd_kl"] < threshold["info_at_most"]
    )
    return Outcome(holds, found)


@claim(
    paper="P033",
    budget=120,
    threshold={"mmd_ratio": 3.0},
    sentence="on 500 digits the codes of an MMD-VAE have a covariance nearer to the identity (log determinant) than a "
    "VAE's, and an MMD to the prior at least 3 times lower",
)
def mmd_vae_matches_the_prior(threshold):
    """500 of the 14x14 digits, 20 latents, 3 seeds; codes drawn from q."""
    whole, found, kernel = digits("static"), {}, losses.rbf(20 / 2**0.5)
    dataset = data.load(dict(source="digits", size=14, binarize="static", num_train=500))
    prior = jax.random.normal(jax.random.key(5), (1000, 20))
    rows = {}
    for name, alpha, lam in (("vae", 0.0, 1.0), ("mmd", 1.0, 1000.0)):
        run = trained(config_of(info, 2000, seeds=3, features=(256,), latent=20, alpha=alpha, lam=lam), dataset)
        codes = [
            over(lambda b, m=m, s=run.system: s.encode(m, b["x"], jax.random.key(2)), whole.test, whole)
            for m in run.members
        ]
        rows[name] = [
            (
                abs(float(metrics.aggregate_logdet(jnp.asarray(z)))),
                float(losses.mmd(jnp.asarray(z), prior, kernel, unbiased=False)),
            )
            for z in codes
        ]
        found |= {
            f"{name}_logdet": mean_sd([r[0] for r in rows[name]]),
            f"{name}_mmd": mean_sd([r[1] for r in rows[name]]),
        }
    (logdet, mmd), (logdet_vae, mmd_vae) = np.mean(rows["mmd"], 0), np.mean(rows["vae"], 0)
    return Outcome(
        bool(logdet < logdet_vae and mmd_vae / mmd >= threshold["mmd_ratio"]),
        found | {"mmd_ratio": float(mmd_vae / mmd)},
        (0, 1, 2),
    )


@claim(
    paper="P033",
    budget=300,
    threshold={"elbo_at_most": 0.5, "mmd_at_least": 2.0},
    sentence="beside a PixelCNN decoder the codes of an ELBO-trained VAE carry under half a nat on the digits (I_q), "
    "those of an MMD-VAE over 2",
)
def mmd_vae_uses_its_latent_beside_a_pixelcnn(threshold):
    """14x14 static binary digits, 8 latents, a PixelCNN of four layers with 5x5 kernels, batch 50, 1,500 steps; I_q and
    linear probes of the label on the 1,000 test digits' codes."""
    dataset, found = digits("static"), {}
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, 50), jax.random.key(0))
    for name, alpha, lam in (("elbo", 0.0, 1.0), ("mmd", 1.0, 1000.0)):
        config = config_of(
            info, 1500, batch_size=50, features=(256,), latent=8, decoder="pixelcnn", pixelcnn_hidden=16,
            pixelcnn_kernel=5, alpha=alpha, lam=lam,
        )
        run, model = trained(config, dataset), latent_model.latent_model(config, example)
        member = run.members[0]

        def parts(batch, member=member, model=model):
            out = model.encode(member.params, batch["x"])
            return jnp.concatenate([model.posterior.mean(out), model.posterior.log_std(out)], 1)

        (mean, log_std), (train_mean, _) = (
            np.split(over(parts, split, dataset), 2, axis=1) for split in (dataset.test, dataset.train)
        )
        z = mean + np.exp(log_std) * np.random.default_rng(0).normal(size=mean.shape).astype(np.float32)
        label, train_label = (np.asarray(s[np.arange(len(s))]["label"]) for s in (dataset.test, dataset.train))
        found |= {
            f"{name}_information": float(metrics.latent_mutual_information(z, mean, log_std)),
            f"{name}_probe": float(metrics.linear_probe(*map(jnp.asarray, (train_mean, train_label, mean, label)), 10)),
            f"{name}_reconstruction": float(run.test["reconstruction"][0]),
            f"{name}_kl": float(run.test["kl"][0]),
        }
    holds = (
        found["elbo_information"] < threshold["elbo_at_most"] and found["mmd_information"] > threshold["mmd_at_least"]
    )
    return Outcome(holds, found)


@claim(
    paper="P024",
    budget=60,
    threshold={"kl_rises": 0.0},
    sentence="the KL and the reconstruction grow with m: digits, m = 0, 1, 2",
)
def autogen_uses_the_latent_more(threshold):
    """14x14 digits, the same networks and steps for m = 0, 1 and 2, side by side."""
    run = trained(config_of(autogen, 2000, sweep=(("model.m", (0.0, 1.0, 2.0)),), features=(256,)), digits("dynamic"))
    kl, nll = run.test["kl"], run.test["reconstruction"]
    return Outcome(
        bool(np.all(np.diff(kl) > threshold["kl_rises"]) and np.all(np.diff(nll) < 0)),
        {f"kl_m{i}": float(v) for i, v in enumerate(kl)}
        | {f"reconstruction_m{i}": float(v) for i, v in enumerate(nll)},
    )


@claim(
    paper="P066",
    budget=120,
    threshold={"nats": 0.2},
    sentence="both KLs of a JointVAE end within 0.2 nat of their capacities, the discrete one of at most log n",
)
def joint_capacities_are_reached(threshold):
    """14x14 digits, capacities of 5 nats each, one categorical of 10."""
    config = config_of(
        joint,
        5000,
        seeds=2,
        features=(256,),
        latent=10,
        capacity=5.0,
        categorical_capacity=5.0,
        capacity_steps=3000,
        gamma=30.0,
        categorical_gamma=30.0,
    )
    config.optim.schedule = "cosine"
    run, dataset = trained(config, digits()), digits()
    continuous, discrete = run.test["kl_continuous"], run.test["kl_discrete"]
    label = np.asarray(dataset.test[np.arange(len(dataset.test))]["label"])
    clusters = [
        over(lambda b, m=m: run.system.encode(m, b["x"])[:, 10:].argmax(-1), dataset.test, dataset) for m in run.members
    ]
    accuracy = [float(metrics.cluster_accuracy(c, label)) for c in clusters]
    holds = (
        np.all(np.abs(continuous - 5.0) < threshold["nats"])
        and np.all(np.abs(discrete - np.log(10)) < threshold["nats"])
        and np.all(discrete <= np.log(10) + 1e-3)
    )
    return Outcome(
        bool(holds),
        {
            "kl_continuous": mean_sd(continuous),
            "kl_discrete": mean_sd(discrete),
            "unsupervised_accuracy": mean_sd(accuracy),
        },
        (0, 1),
    )
