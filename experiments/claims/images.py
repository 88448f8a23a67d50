"""Claims of the papers on what autoencoders of images generate, and how sharp it is."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import config_of, digits, over, trained
from jaxae import metrics
from jaxae.systems.gaussian import generated, population, vae


@claim(
    paper="P134",
    budget=300,
    threshold={"l1_ratio": 1.0},
    sentence="population matching reconstructs with a lower absolute error than a VAE of the same network; a PatchGAN "
    "makes its reconstructions sharper, and as sharp as the digits more nearly",
)
def patchgan_sharpens_reconstructions(threshold):
    """28x28 digits, 16 latents, batch 100; test error and sharpness, and prior samples' Frechet distance reported."""
    dataset, features, found = digits(size=28), metrics.digit_features(), {}
    real = over(lambda b: features(b["x"]), dataset.test, dataset)
    sharp = {"real": float(over(lambda b: metrics.laplacian_sharpness(b["x"]), dataset.test, dataset).mean())}
    patch = dict(adversarial=5.0, patch_channels=(32, 64), patch_strides=(2, 2), patch_rate=3e-4)
    for name, module, keys in (("vae", vae, {}), ("plain", population, {}), ("patchgan", population, patch)):
        run = trained(config_of(module, 2000, features=(512,), latent=16, **keys), dataset)
        member, system = run.members[0], run.system

        def both(batch, member=member, system=system):
            x_hat = system.reconstruct(member, batch["x"])
            return jnp.stack([jnp.abs(x_hat - batch["x"]).mean((1, 2, 3)), metrics.laplacian_sharpness(x_hat)], 1)

        error, sharp[name] = (float(v) for v in over(both, dataset.test, dataset).mean(0))
        images = jax.jit(lambda key, m=member, s=system: features(s.sample(m, key, 1000)))(jax.random.key(1))
        found |= {
            f"{name}_l1": error,
            f"{name}_sharpness": sharp[name],
            f"{name}_frechet": float(metrics.frechet_distance(np.asarray(images), real)),
        }
    holds = (
        max(found["plain_l1"], found["patchgan_l1"]) < threshold["l1_ratio"] * found["vae_l1"]
        and sharp["patchgan"] > sharp["plain"]
        and abs(sharp["patchgan"] - sharp["real"]) < abs(sharp["plain"] - sharp["real"])
    )
    return Outcome(bool(holds), found | {"real_sharpness": sharp["real"]})


@claim(
    paper="P085",
    budget=240,
    threshold={"collapsed_kl": 0.1, "spread": 1e-3},
    sentence="the loss of generated samples, scored at beta = 1, is finite for all beta from 0.1 to 30 and smallest "
    "away from the collapsed end, or not monotone; where the KL is under 0.1 nat all samples are one image",
)
def generated_loss_over_beta(threshold):
    """14x14 digits, six betas side by side; augmented training by mean reconstructions is reported at beta = 1.

    Samples are one image where no pixel of 500 of them is farther than `spread` from its mean; the mean squared
    distance is reported too. A decoder of m hidden units that learns from n noisy examples that z means nothing keeps
    deviations of size sqrt(p (1 - p) m / n) in a pixel of mean p: 0.02 for m = 256 and n = 200,000.
    """
    dataset, betas = digits(), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    config = config_of(generated, 2000, features=(256,), latent=10, augment="none", sweep=(("model.beta", betas),))
    config.optim.schedule = "cosine"
    run, found = trained(config, dataset), {}
    total, reconstruction, kl = (run.test[f] for f in ("generated_loss", "generated_reconstruction", "kl"))
    spread, largest = [], []  # mean squared and largest distance
    for member in run.members:
        images = jax.jit(lambda key, m=member: run.system.sample(m, key, 500))(jax.random.key(0))
        spread.append(float(jnp.square(images - images.mean(0)).mean()))
        largest.append(float(jnp.abs(images - images.mean(0)).max()))
    for i, beta in enumerate(betas):
        found |= {f"generated_{beta:g}": float(total[i]), f"reconstruction_{beta:g}": float(reconstruction[i]),
                  f"kl_{beta:g}": float(kl[i]), f"spread_{beta:g}": spread[i], f"largest_{beta:g}": largest[i]}
    augmented = config_of(generated, 2000, features=(256,), latent=10, augment="mean")
    augmented.optim.schedule = "cosine"
    again = trained(augmented, dataset)
    found |= {f"augmented_{name}": float(again.test[name][0]) for name in ("generated_loss", "mse", "kl")}
    found["plain_mse"] = float(run.test["mse"][2])

    def turns(curve):
        return np.argmin(curve) != len(betas) - 1 or not (np.all(np.diff(curve) < 0) or np.all(np.diff(curve) > 0))

    collapsed = [s for s, k in zip(largest, kl, strict=True) if k < threshold["collapsed_kl"]]
    holds = (
        np.all(np.isfinite(total))
        and turns(total)
        and turns(reconstruction)
        and bool(collapsed)
        and max(collapsed) < threshold["spread"]
    )
    return Outcome(bool(holds), found)
