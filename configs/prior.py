"""A prior over the latents of a trained autoencoder.

    python experiments/run.py --config=configs/prior.py --config.autoencoder=runs/vq

Code maps get an autoregressive prior (gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328), vectors a
Gaussian mixture by EM. The figure `samples` shows decoded samples.

Variants: `conditional` (one class for each column of the samples), `mixture` (EM needs no steps), `flow` (RealNVP for
vectors), `autoregressive` (a masked network for vectors; arXiv 1502.03509).
"""

from jaxae.systems.latent import prior
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "latent.prior"
    config.model = prior.defaults()
    config.update(dict(steps=600, batch_size=100, eval_every=200, figures_every=300, checkpoint_every=200))
    config.prepare_examples = 0
    config.model.update(dict(hidden=48, layers=4, dropout=0.2))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))

    def conditional(c):
        c.model.conditional = True

    def mixture(c):
        c.model.prior = "gaussian_mixture"
        c.steps = 1

    def flow(c):
        c.model.update(dict(prior="flow", hidden=64, layers=6))
        c.steps = 1500

    def autoregressive(c):
        c.model.update(dict(prior="autoregressive", hidden=128, dropout=0.0))
        c.steps = 1500

    def tiny(c):
        c.model.update(dict(hidden=16, layers=2, components=2))

    return apply_variants(config, arg, dict(conditional=conditional, mixture=mixture, flow=flow,
                                            autoregressive=autoregressive, tiny=tiny))
