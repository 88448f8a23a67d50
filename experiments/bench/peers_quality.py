"""pythae's side of `quality.py`: its models, trained by a plain PyTorch loop over the same batches' worth of data."""

import math

import numpy as np
import torch


def model_of(case: str, latent: int):
    """pythae's model with its default MLP networks (784-512-`latent`), and the settings of `quality.py`."""
    from pythae import models

    common = dict(input_dim=(1, 28, 28), latent_dim=latent)
    if case == "vae":
        return models.VAE(models.VAEConfig(**common, reconstruction_loss="bce"))
    if case == "beta-vae":
        return models.BetaVAE(models.BetaVAEConfig(**common, reconstruction_loss="bce", beta=4.0))
    if case == "iwae":
        return models.IWAE(models.IWAEConfig(**common, reconstruction_loss="bce", number_samples=5))
    # Squared error with weight 1 and lambda 200 is 0.05 and 10 of the paper's code.
    return models.WAE_MMD(models.WAE_MMD_Config(**common, reg_weight=200.0))


def measure(case: str, train: np.ndarray, test: np.ndarray, seed: int, steps: int, batch: int, rate: float,
            latent: int, nll_samples: int) -> dict:
    """Trains one model: `elbo` and `nll` of the test set in nats where it has a density, and 1,000 samples of N(0, I)
    decoded, `[1000 28 28 1]`."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # these models are too small for more
    images, held = (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (train, test))
    model = model_of(case, latent)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    order = None
    for step in range(steps):
        i = step % (len(images) // batch)
        order = order if i else torch.randperm(len(images))
        loss = model({"data": images[order[i * batch:(i + 1) * batch]]})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        drawn = model.decoder(torch.randn(1000, latent))["reconstruction"].reshape(-1, 28, 28, 1).numpy()
        found = {"samples": drawn}
        if case != "wae-mmd":
            weights = _log_weights(model, held, nll_samples)
            found["elbo"] = float(weights.mean())
            found["nll"] = -float((torch.logsumexp(weights, 0) - math.log(nll_samples)).mean())
    return found


def _log_weights(model, x, k):
    """log p(x, z) - log q(z | x) for k draws of each example, [k n] nats."""
    out = model.encoder(x)
    mean, log_std = out.embedding, 0.5 * out.log_covariance
    rows = []
    for _ in range(k):
        noise = torch.randn_like(mean)
        z = mean + log_std.exp() * noise
        pixels = model.decoder(z)["reconstruction"].reshape(len(x), -1)
        nats = torch.nn.functional.binary_cross_entropy(pixels, x.reshape(len(x), -1), reduction="none").sum(-1)
        rows.append(-nats - 0.5 * (z**2).sum(-1) + 0.5 * (noise**2).sum(-1) + log_std.sum(-1))
    return torch.stack(rows)
