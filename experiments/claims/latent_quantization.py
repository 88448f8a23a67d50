"""Claims of the paper on disentangling by latent quantization."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import Trained, config_of, mean_sd, over, trained
from jaxae import data, metrics
from jaxae.quantizers import Codes
from jaxae.quantizers.latent import latent_quantization
from jaxae.systems.discrete import vq_vae
from jaxae.systems.gaussian import info, vae

SEEDS = (0, 1)
NETWORKS = dict(network="style", channels=(4, 16, 32), features=(64, 64), blocks=0, likelihood="bernoulli")


@claim(paper="P121", budget=30, threshold={"relative_error": 1e-5},
       sentence="each number takes the nearest value of its dimension, as found by brute force; the gradient reaches "
                "the values by the quantization loss alone")
def latent_quantizer_is_exact(threshold):
    """2,000 vectors of 12 dimensions with 10 values in no order; a decoder that is a random linear map. Of the loss
    without its quantization term the values' gradient must be 0, of the whole loss that of the term in closed form."""
    rng = np.random.default_rng(0)
    z, values, w = rng.normal(size=(2000, 12)), rng.normal(size=(12, 10)), rng.normal(size=12)

    def gradient(weight):
        quantizer = latent_quantization(12, 10, weight, 0.01)

        def loss(values):
            found = quantizer.quantize(jnp.float32(z), Codes(values), jax.random.key(0), True)
            return jnp.mean(found.loss + jnp.sin(found.z_q @ jnp.float32(w))), found.indices

        return jax.jit(jax.grad(loss, has_aux=True))(jnp.float32(values))

    nearest = np.array([[min(range(10), key=lambda k: abs(z[i, j] - values[j, k])) for j in range(12)]
                        for i in range(2000)])
    pull = np.zeros_like(values)
    np.add.at(pull, (np.arange(12), nearest), -2 * 0.01 * (z - values[np.arange(12), nearest]) / z.size)
    (without, indices), (whole, _) = gradient(0.0), gradient(0.01)
    wrong, leak = int((np.asarray(indices) != nearest).sum()), float(np.abs(without).max())
    error = float(np.abs(whole - pull).max() / np.abs(pull).max())
    return Outcome(wrong == 0 and leak == 0.0 and error < threshold["relative_error"],
                   {"wrong": wrong, "leak": leak, "relative_error": error})


def score(run: Trained, member, dataset) -> dict[str, float]:
    """InfoMEC of all images, PSNR in decibels of the test split."""
    splits = (dataset.train, dataset.test)
    z = np.concatenate([over(lambda b: run.system.encode(member, b["x"]), split, dataset) for split in splits])
    factors = np.concatenate([split[np.arange(len(split))]["factors"] for split in splits])[:, [0, 1, 3, 4]]
    found = metrics.infomec(factors, z.reshape(len(z), -1), discrete=bool(run.system.latent.codes))
    psnr = over(lambda b: metrics.psnr(b["x"], run.system.reconstruct(member, b["x"])), dataset.test, dataset)
    return {"infom": found.infom, "infoe": found.infoe, "infoc": found.infoc, "psnr": float(psnr.mean())}


@claim(paper="P121", budget=300, threshold={"infom_gain": 0.0, "infoe_gain": 0.0, "psnr_loss_at_most": 1.5},
       sentence="on sprites with four independent sources a quantized-latent autoencoder under weight decay has higher "
                "InfoM and InfoE than the same autoencoder with continuous latents and no decay, means of 2 seeds, at "
                "a PSNR within 1.5 dB")
def qlae_disentangles_sprites(threshold):
    """576 sprites of 32x32: 3 shapes, 3 sizes, 8 x 8 places. 8 latents, of 8 values where quantized; decay .1 on the
    networks' weights; the same style decoder, rate and updates. PSNR of the test split. A beta-VAE of weight 4 is
    reported besides."""
    dataset = data.load(dict(source="sprites", size=32, factor_sizes=(3, 3, 1, 8, 8)))
    quantized = dict(quantizer="latent", positions=1, width=8, codes=8, beta=0.01)
    models = {"qlae": (vq_vae, quantized), "ae": (info, dict(posterior="point", alpha=1.0, lam=0.0, latent=8)),
              "beta_vae": (vae, dict(beta=4.0, latent=8))}
    found, means = {}, {}
    for name, (module, model) in models.items():
        config = config_of(module, 1200, seeds=2, batch_size=32, rate=3e-3, **NETWORKS, **model)
        config.optim.update(dict(schedule="cosine", final_scale=0.1, clip=1.0 if name == "qlae" else 0.0))
        if name == "qlae":
            config.optim.update(dict(name="adamw", weight_decay=0.1, decay_exclude=("codes", "bias")))
        run = trained(config, dataset)
        rows = [score(run, member, dataset) for member in run.members]
        means[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        found |= {f"{name}_{key}": mean_sd([row[key] for row in rows]) for key in rows[0]}
    gain = {key: means["qlae"][key] - means["ae"][key] for key in means["ae"]}
    holds = (gain["infom"] > threshold["infom_gain"] and gain["infoe"] > threshold["infoe_gain"]
             and abs(gain["psnr"]) < threshold["psnr_loss_at_most"])
    return Outcome(bool(holds), found | {f"{key}_gain": value for key, value in gain.items()}, SEEDS)
