"""Wasserstein autoencoders (Tolstikhin et al. 2017, arXiv 1711.01558) and what else matches codes to a prior.

    python experiments/run.py --config=configs/wae.py

Trains on the 4,000 embedded digits with the MMD of the inverse multiquadric kernel.

Variants: `gan` (a discriminator on codes, the adversarial autoencoder), `sliced` (Kolouri et al. 2018,
arXiv 1804.01947, with a ring as prior in the plane), `max_sliced`, `generalized_sliced`, `sinkhorn`, `energy`, `rbf`,
`plain` (no divergence), `random` (a Gaussian encoder), `pretrain` (the encoder alone at first), `conv` (convolutional
networks).

At the scale of the papers: `paper` (MNIST), `paper_celeba` (also with `gan` before it), `paper_sliced` (MNIST).
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

    def random(c):
        c.model.posterior = "diagonal"

    def pretrain(c):
        c.model.pretrain_steps = 200

    def manual(c, epoch):
        """The published schedule: half after 30 epochs, a fifth of that after 50, a tenth of that after 100."""
        c.optim.update(dict(schedule="piecewise", drops=((30 * epoch, 0.5), (50 * epoch, 0.2), (100 * epoch, 0.1))))

    def paper(c):
        # 28x28 digits, k=8, lambda=10, batch 100, 100 epochs of 60,000; 128-256-512-1024 without batch normalisation.
        c.data.update(dict(source="tfds:mnist"))
        c.model.update(dict(network="mnist_conv", norm=True, pretrain_steps=200))
        c.update(dict(steps=60_000, eval_every=6000, figures_every=6000, checkpoint_every=6000))
        c.optim.update(dict(learning_rate=1e-3, b1=0.5))
        manual(c, 600)

    def paper_celeba(c):
        # 64x64 faces, k=64, batch 100, 55 epochs of 162,770; 5x5 filters, noise of 0.01 on inputs in [-1, 1], which is
        # 0.005 here. Costs are those of images in [-1, 1], whose squares are four times those of [0, 1].
        adversarial = c.model.divergence == "gan"
        c.data.update(dict(source="tfds:celeb_a", size=64))
        c.model.update(dict(latent=64, weight=1.0 if adversarial else 100.0, cost_scale=0.2, likelihood="mse",
                            network="wae", channels=(128, 256, 512, 1024), norm=True, input_noise=0.005,
                            critic_rate=1e-3, pretrain_steps=200))
        c.update(dict(steps=89_500, eval_every=8950, figures_every=8950, checkpoint_every=8950))
        c.optim.update(dict(learning_rate=3e-4 if adversarial else 1e-3, b1=0.5))
        manual(c, 1628)

    def paper_sliced(c):
        # 50 projections, batch 500, 30 epochs of 60,000 by RMSprop, lambda times 1.1 in every epoch after the tenth.
        sliced(c)
        c.data.update(dict(source="tfds:mnist"))
        c.model.update(dict(network="pooled", channels=(16, 32, 64), features=(128,), growth=1.1, growth_every=120,
                            growth_start=1200))
        c.update(dict(steps=3600, batch_size=500))
        c.optim.update(dict(name="rmsprop", learning_rate=1e-3, b2=0.9, eps=1e-7))

    def tiny(c):
        c.model.update(dict(features=(32,), channels=(8,) * len(c.model.channels), critic=(16,), projections=8))
        c.evaluators = ()

    variants = {name: divergence(name) for name in ("max_sliced", "generalized_sliced", "energy")}
    return apply_variants(config, arg, variants | dict(
        gan=divergence("gan", weight=0.1), sinkhorn=divergence("sinkhorn", weight=0.5), plain=divergence("none"),
        sliced=sliced, rbf=rbf, random=random, pretrain=pretrain, conv=conv, paper=paper, paper_celeba=paper_celeba,
        paper_sliced=paper_sliced, tiny=tiny))
