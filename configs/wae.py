"""Wasserstein autoencoders (Tolstikhin et al. 2017, arXiv 1711.01558) and what else matches codes to a prior.

    python experiments/run.py --config=configs/wae.py

Trains on the 4,000 embedded digits with the MMD of the inverse multiquadric kernel.

Variants: `gan` (a discriminator on codes, the adversarial autoencoder), `sliced` (Kolouri et al. 2018,
arXiv 1804.01947, with a ring as prior in the plane), `max_sliced`, `generalized_sliced`, `sinkhorn`, `energy`, `rbf`,
`plain` (no divergence), `conv` (convolutional networks), `paper` (MNIST at the paper's scale).
"""

from jaxae.systems.transport import wae
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "transport.wae"
    config.model = wae.defaults()
    config.model.update(dict(latent=8, likelihood="bernoulli"))
    config.update(dict(steps=3000, batch_size=100, log_every=100, eval_every=1000, figures_every=1500,
                       checkpoint_every=1000))
    config.evaluators = ("image_quality", "frechet")

    def divergence(name, **changes):
        def change(c):
            c.model.update(dict(divergence=name) | changes)
        return change

    def sliced(c):
        c.model.update(dict(divergence="sliced", latent=2, prior="ring", cost="mean", cost_scale=1.0, weight=10.0))

    def rbf(c):
        c.model.update(dict(kernel="rbf"))

    def conv(c):
        # Linear outputs: untrained convolutional codes are large, and a sigmoid they saturate learns nothing more.
        c.model.update(dict(likelihood="mse", network="conv", channels=(32, 64), blocks=1, hidden=32))
        c.update(dict(steps=1500))

    def paper(c):
        # 28x28 digits, k=8, lambda=10, batch 100, 100 epochs of 60,000; 128-256-512-1024 without batch normalisation.
        c.data.update(dict(source="tfds:mnist"))
        c.model.update(dict(network="mnist_conv", norm=True))
        c.update(dict(steps=60_000, eval_every=6000, figures_every=6000, checkpoint_every=6000))
        c.optim.update(dict(learning_rate=1e-3, b1=0.5))

    def tiny(c):
        c.model.update(dict(features=(32,), channels=(8,) * len(c.model.channels), critic=(16,), projections=8))
        c.evaluators = ()

    variants = {name: divergence(name) for name in ("max_sliced", "generalized_sliced", "energy")}
    return apply_variants(config, arg, variants | dict(
        gan=divergence("gan", weight=1.0), sinkhorn=divergence("sinkhorn", weight=0.5), plain=divergence("none"),
        sliced=sliced, rbf=rbf, conv=conv, paper=paper, tiny=tiny))
