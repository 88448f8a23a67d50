"""Claims of the papers on codes that each describe the whole image."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from claims import Outcome, claim
from claims.training import config_of, digits, over, trained
from jaxae import metrics
from jaxae.quantizers import global_tokens, inverse_global_tokens
from jaxae.systems.discrete import global_codes, vq_vae

TOKENS, CODES, SIDE = 16, 64, 16  # 16x16 digits in 16 codes of 64, 96 bits
STEPS = 1000


def on_digits(module, steps: int, rate: float, **model):
    """Small networks, batches of 32, a cosine schedule."""
    config = config_of(module, steps, batch_size=32, rate=rate, codes=CODES, **model)
    config.optim.update(dict(schedule="cosine", warmup_steps=50))
    return config


@cache
def trained_global(prefix_dropout: float = 0.0, steps: int = STEPS):
    """U-Nets of 16x16 and 8x8; projections from principal components, codes from k-means and by moving averages."""
    return trained(on_digits(
        global_codes, steps, 3e-3, tokens=TOKENS, width=3, heads=TOKENS, channels=8, most=32, codebook="ema", beta=0.02,
        decay=0.95, prefix_dropout=prefix_dropout), digits(size=SIDE))


@cache
def trained_from_random(reset_every: int):
    """As published: projections and codes start at random, gradients move them; the maps are 8x8."""
    return trained(on_digits(
        global_codes, 1000, 3e-3, tokens=TOKENS, width=16, heads=4, reduced=1, channels=8, most=32, start="random",
        reset_every=reset_every), digits(size=SIDE))


@cache
def trained_local(steps: int = STEPS):
    """A VQ-VAE with maps of 4x4 codes, moved by moving averages, revived, and started by k-means."""
    return trained(on_digits(vq_vae, steps, 3e-3, channels=(24, 48), blocks=1, hidden=32, width=16), digits(size=SIDE))


def psnr_of(run, **options) -> float:
    """Mean test PSNR in decibels; options are those of `decode`."""
    system, model = run.system, run.members[0]

    def each(batch):
        x_hat = system.decode(model, system.encode(model, batch["x"]), **options)
        return metrics.psnr(batch["x"], jnp.clip(x_hat, 0.0, 1.0))

    dataset = digits(size=SIDE)
    return float(over(each, dataset.test, dataset).mean())


def parameters(run, codes) -> int:
    """Of the networks, and of codebooks `codes` that are none of them."""
    return sum(leaf.size for leaf in jax.tree.leaves(run.members[0].params)) + codes.size


def used_codes(run) -> float:
    """Of a codebook, on the training set."""
    dataset = digits(size=SIDE)
    indices = over(lambda batch: run.system.encode(run.members[0], batch["x"]), dataset.train, dataset)
    return float(np.mean([len(np.unique(column)) for column in indices.T]))


@claim(paper="P052", budget=300, threshold={"global_share_over": 0.5, "outside": 0.0},
       sentence="another code for one token changes more than half of all pixels of a QG-VAE's image, and of a local "
                "VQ-VAE's only those in the receptive field")
def a_token_describes_the_whole_image(threshold):
    """100 test digits, each token in turn gets the code that the next digit has there, where it is another.

    Changes over 1e-3 count. The local decoder: a 3x3 convolution, a residual one, twice a transposed 4x4 of stride 2.
    """
    x, found = jnp.asarray(digits(size=SIDE).test[np.arange(100)]["x"] / 255.0, jnp.float32), {}
    reach = 2 * (2 * 2 + 1) + 1  # pixels before a code's own four: two codes, then one pixel at each doubling
    for name, run in (("global", trained_global()), ("local", trained_local())):
        system, model = run.system, run.members[0]
        indices = jax.jit(system.encode)(model, x)
        flat, decode = indices.reshape(100, -1), jax.jit(system.decode)
        whole, shares, outside = decode(model, indices), [], 0.0
        for token in range(flat.shape[1]):
            other = jnp.roll(flat[:, token], 1)
            changed = np.abs(decode(model, flat.at[:, token].set(other).reshape(indices.shape)) - whole)[..., 0]
            changed = changed[np.asarray(other != flat[:, token])]
            shares.append((changed > 1e-3).mean((1, 2)))
            if name == "local":
                row, column = np.divmod(token, indices.shape[2])
                rows, columns = np.ogrid[:SIDE, :SIDE]
                far = (np.maximum(4 * row - rows, rows - 4 * row - 3) > reach) | (
                    np.maximum(4 * column - columns, columns - 4 * column - 3) > reach)
                outside = max(outside, float(np.where(far, changed, 0.0).max()))
                found["most_pixels_out_of_reach"] = max(found.get("most_pixels_out_of_reach", 0), int(far.sum()))
        found |= {f"{name}_share": float(np.concatenate(shares).mean()),
                  f"{name}_least_share": float(min(share.mean() for share in shares))}
    found["outside"] = outside
    return Outcome(found["global_share"] > threshold["global_share_over"] and outside <= threshold["outside"], found)


@claim(paper="P052", budget=60, threshold={"error_ratio": 1.02},
       sentence="without a quantizer, with a head for each token of one number and a sum for a decoder, training "
                "reaches the error of as many principal components within 2%")
def linear_global_tokens_are_principal_components(threshold):
    """4,000 centred 14x14 digits, each copied into 16 channels; Adam on batches of 320."""
    count, x = 16, np.asarray(digits().train[np.arange(4000)]["x"] / 255.0, np.float32)
    x = x - x.mean(0)
    rows = x.reshape(4000, -1)
    spectrum = np.linalg.svd(rows, compute_uv=False) ** 2
    best = float(spectrum[count:].sum() / rows.size)
    steps, places = 1500, rows.shape[1]
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def error(params, x):
        tokens = global_tokens(jnp.repeat(x, count, -1), params["down"])
        x_hat = inverse_global_tokens(tokens, params["up"], x.shape[1]).sum(-1, keepdims=True)
        return jnp.square(x - x_hat).mean()

    def step(carry, key):
        params, state = carry
        batch = jnp.asarray(x)[jax.random.randint(key, (500,), 0, 4000)]
        updates, state = tx.update(jax.grad(error)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    down, up = jax.random.split(jax.random.key(0))
    params = {"down": jax.random.normal(down, (count, places, 1)) / places**0.5,
              "up": jax.random.normal(up, (count, 1, places)) / places**0.5}
    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    params, _ = run((params, tx.init(params)), jax.random.split(jax.random.key(1), steps))
    found = float(np.mean([jax.jit(error)(params, jnp.asarray(x[i:i + 500])) for i in range(0, 4000, 500)]))
    return Outcome(found / best < threshold["error_ratio"],
                   {"error_ratio": found / best, "error": found, "principal_components": best})


@claim(paper="P052", budget=300, threshold={"gain_over": 0.0, "parameters_within": 0.2},
       sentence="at the same bits and as many parameters a QG-VAE's test PSNR is higher than a local VQ-VAE's")
def global_codes_beat_local_codes(threshold):
    """16x16 digits in 16 codes of 64, 96 bits, as many updates; both codebooks start by k-means and are averages.

    Random projections to tokens of 16 numbers, maps of half the image's side and codes that gradients move, as in the
    first version of this claim, had 17.1 dB after 1,000 updates against 22.0 (`trained_from_random`); a local network
    with 24 hidden channels in the place of 32 has 22.0, at a ratio of parameters of 1.206. `_db` is the error of the
    training batches of the 50 updates before.
    """
    runs = dict(zip(("global", "local"), (trained_global(), trained_local()), strict=True))
    found = {f"{name}_psnr": psnr_of(run) for name, run in runs.items()}
    sizes = [parameters(run, codes) for run, codes in (
        (runs["global"], runs["global"].members[0].extra.codes.codes),
        (runs["local"], runs["local"].members[0].extra.codes))]
    gain, ratio = found["global_psnr"] - found["local_psnr"], sizes[0] / sizes[1]
    bits = [float(np.prod(run.system.latent.shape) * np.log2(run.system.latent.codes)) for run in runs.values()]
    curves = {f"{name}_db_{row['step']}": float(-10.0 * np.log10(row["reconstruction"]))
              for name, run in runs.items() for row in run.history if row["step"] in (100, 300, STEPS)}
    return Outcome(gain > threshold["gain_over"] and abs(ratio - 1) <= threshold["parameters_within"]
                   and bits[0] == bits[1],
                   found | {"gain": gain, "parameters": sizes[0], "parameters_ratio": ratio, "bits": bits[0]} | curves)


@claim(paper="P052", budget=300, threshold={"least_gain": 0.0},
       sentence="with prefix dropout every further token that is decoded raises the test PSNR")
def longer_prefixes_decode_better(threshold):
    """16x16 digits, 16 tokens of which a third of the examples keep a prefix."""
    ordered = trained_global(prefix_dropout=1 / 3)
    found = [psnr_of(ordered, kept=t) for t in range(1, TOKENS + 1)]
    plain = [psnr_of(trained_global(), kept=t) for t in (1, TOKENS // 2, TOKENS)]
    gains = np.diff(found)
    return Outcome(gains.min() > threshold["least_gain"],
                   {f"psnr_{t}": found[t - 1] for t in (1, 2, 4, 8, 12, 16)}
                   | {"least_gain": float(gains.min()), "steps_down": int((gains <= 0).sum())}
                   | {f"unordered_psnr_{t}": p for t, p in zip((1, TOKENS // 2, TOKENS), plain, strict=True)})


@claim(paper="P052", budget=300, threshold={"ratio": 1.0},
       sentence="splitting the cells of the codes with the largest gradients brings more codes into use than training "
                "without")
def splitting_cells_brings_codes_into_use(threshold):
    """Codes of 64 that occur in the training set, averaged over 16 codebooks; every 50 of the updates, or never."""
    runs = {"split": trained_from_random(50), "never": trained_from_random(0)}
    found = {name: used_codes(run) for name, run in runs.items()}
    return Outcome(found["split"] > threshold["ratio"] * found["never"],
                   {f"{name}_used": used for name, used in found.items()}
                   | {f"{name}_psnr": psnr_of(run) for name, run in runs.items()})
