"""Claims of the paper on disentangling by latent quantization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import Trained, config_of, mean_sd, over, trained
from jaxae import data, metrics
from jaxae.quantizers import Codes
from jaxae.quantizers.latent import latent_quantization
from jaxae.systems.discrete import ql_infogan, vq_vae
from jaxae.systems.gaussian import info, vae

SEEDS = (10, 11, 12, 13)  # others than those by which rate and decay were chosen
UPDATES, RATE, DECAY = 10_000, 5e-3, 1.0  # paper: 200,000, 1e-3, .1
DENSE = dict(network="mlp", features=(128, 128), likelihood="bernoulli")
STYLE = dict(network="style", channels=(4, 16, 32), features=(64, 64), blocks=0, likelihood="bernoulli")
LATENTS = dict(quantizer="latent", positions=1, width=8, codes=8, beta=0.01)
VECTORS = dict(quantizer="vector", codebook="gradient", positions=8, width=16, codes=8, start="kmeans", revive=0.0,
               beta=0.25)


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


def scores(run: Trained, member) -> dict[str, float]:
    """InfoMEC of all images, PSNR in decibels of the test split."""
    splits = (sprites().train, sprites().test)
    z = np.concatenate([over(lambda b: run.system.encode(member, b["x"]), split, sprites()) for split in splits])
    factors = np.concatenate([split[np.arange(len(split))]["factors"] for split in splits])[:, [0, 1, 3, 4]]
    found = metrics.infomec(factors, z.reshape(len(z), -1), discrete=bool(run.system.latent.codes))
    psnr = over(lambda b: metrics.psnr(b["x"], run.system.reconstruct(member, b["x"])), sprites().test, sprites())
    return {"infom": found.infom, "infoe": found.infoe, "infoc": found.infoc, "psnr": float(psnr.mean())}


@functools.cache
def sprites() -> "data.Dataset":
    """576 sprites of 32x32: 3 shapes, 3 sizes, 8 x 8 places; a tenth of them is the test split."""
    return data.load(dict(source="sprites", size=32, factor_sizes=(3, 3, 1, 8, 8)))


def autoencoders(module, rate: float, decay: float = 0.0, **model) -> list[dict[str, float]]:
    """Scores of the seeds of a model in dense networks."""
    config = config_of(module, UPDATES, seeds=len(SEEDS), batch_size=32, rate=rate, **DENSE, **model)
    config.seed = SEEDS[0]
    config.optim.update(dict(schedule="cosine", final_scale=0.1, warmup_steps=200))
    if decay:
        config.optim.update(dict(name="adamw", weight_decay=decay, decay_exclude=("codes", "bias"), clip_elements=1.0))
    run = trained(config, sprites())
    return [scores(run, member) for member in run.members]


@functools.cache
def quantized(decay: float = DECAY, **changes) -> list[dict[str, float]]:
    """Scores of the seeds of the quantized-latent autoencoder: 8 latents of 8 values, under decay of the networks."""
    return autoencoders(vq_vae, RATE, decay, **LATENTS | changes)


def compared(**rows: list[dict[str, float]]) -> tuple[dict, dict]:
    """Means over seeds, `[model][score]`, and what the table shows."""
    means = {name: {key: float(np.mean([row[key] for row in of])) for key in of[0]} for name, of in rows.items()}
    return means, {f"{name}_{key}": mean_sd([row[key] for row in of]) for name, of in rows.items() for key in of[0]}


@claim(paper="P121", budget=300, threshold={"infom_gain": 0.0, "infoe_gain": 0.0, "psnr_loss_at_most": 1.5},
       sentence="on sprites with four independent sources a quantized-latent autoencoder under weight decay has higher "
                "InfoM and InfoE than the same autoencoder with continuous latents and no decay, means of 4 seeds, at "
                "a PSNR within 1.5 dB")
def qlae_disentangles_sprites(threshold):
    """8 latents, of 8 values where quantized; two dense layers of 128 in encoder and decoder, in place of the paper's
    convolutions with the latent as their style, which take nine times as long an update. PSNR of the test split. What
    is to make the latents differ from mixtures of the sources is decay: by rate x decay x updates it is 20 in the
    paper, would be 1 here with the paper's rate and decay, and is 27 with those here. After 6,000 updates the two gains
    were .09 and .27, and the loss of PSNR 1.67 dB, which was still falling: hence the 10,000. The autoencoders have a
    rate of 1e-3. A beta-VAE of weight 4 is reported besides."""
    point = dict(posterior="point", alpha=1.0, lam=0.0, latent=8)
    means, found = compared(qlae=quantized(), ae=autoencoders(info, 1e-3, **point),
                            beta_vae=autoencoders(vae, 1e-3, beta=4.0, latent=8))
    gain = {key: means["qlae"][key] - means["ae"][key] for key in means["ae"]}
    holds = (gain["infom"] > threshold["infom_gain"] and gain["infoe"] > threshold["infoe_gain"]
             and abs(gain["psnr"]) < threshold["psnr_loss_at_most"])
    return Outcome(bool(holds), found | {f"{key}_gain": value for key, value in gain.items()}, SEEDS)


@claim(paper="P121", budget=300, threshold={"infom_drop": 0.0},
       sentence="of a quantized-latent autoencoder InfoM drops without weight decay, and with codes of one codebook of "
                "vectors (VQ-VAE) in the place of numbers, means of 4 seeds; one row of values for all latents, and "
                "values that stay, are reported besides")
def qlae_needs_decay_and_numbers(threshold):
    """The same networks, data, rate and updates. Vectors: 8 codes of one codebook of 8 vectors of 16 numbers, under the
    same decay; with more of them the plug-in estimate from 576 images would find information of every latent about
    every source, which is there by chance."""
    means, found = compared(qlae=quantized(), no_decay=quantized(0.0), vectors=autoencoders(
        vq_vae, RATE, DECAY, **VECTORS), shared=quantized(shared=True), fixed=quantized(learned=False))
    drops = {name: means["qlae"]["infom"] - means[name]["infom"] for name in means if name != "qlae"}
    holds = min(drops["no_decay"], drops["vectors"]) > threshold["infom_drop"]
    return Outcome(bool(holds), found | {f"{name}_infom_drop": value for name, value in drops.items()}, SEEDS)


@claim(paper="P121", budget=600, threshold={"infom_gain": 0.0},
       sentence="on sprites the codes that a QLInfoWGAN-GP reads off real images have a higher InfoM than the numbers "
                "of an InfoWGAN-GP without quantization, means of four seeds")
def quantized_codes_disentangle_an_infogan(threshold):
    """The same style networks, rate (1e-3) and updates: 1,000 of the generator, 5 of the critic for each. Decay as the
    paper's code has it, 1e-3 and 1e-4. A first run, of one other seed and with the published weight of 200 on the
    latents' recovery for both, found .442 against .435, but the numbers' generator drew no sprites (PSNR 6.8 dB): its
    weight is 10 here, chosen by the samples of yet another seed."""
    def network(codes: int, decay: float, latent_weight: float) -> list[dict[str, float]]:
        config = config_of(ql_infogan, 1000, seeds=len(SEEDS), batch_size=16, rate=1e-3, codes=codes, width=8,
                           latent_weight=latent_weight, **STYLE)
        config.seed = SEEDS[0]
        config.optim.update(dict(name="adamw", b1=0.0, b2=0.9, weight_decay=decay, decay_exclude=("codes", "bias"),
                                 clip_elements=1.0))
        run = trained(config, sprites())
        return [scores(run, member) for member in run.members]

    means, found = compared(quantized=network(8, 1e-3, 200.0), plain=network(0, 1e-4, 10.0))
    gain = {key: means["quantized"][key] - means["plain"][key] for key in means["plain"]}
    return Outcome(bool(gain["infom"] > threshold["infom_gain"]),
                   found | {f"{key}_gain": value for key, value in gain.items()}, SEEDS)
