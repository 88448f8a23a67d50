"""A prior over the latents of a trained autoencoder.

    python experiments/run.py --config=configs/prior.py --config.autoencoder=runs/vq

Code maps get an autoregressive prior (gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328), vectors a
Gaussian mixture by EM. The figure `samples` shows decoded samples.

Variants for codes: `transformer` (causal, with a cache), `linear` (Katharopoulos et al. 2020, arXiv 2006.16236),
`axial` (Ho et al. 2019, arXiv 1912.12180), `masked` (MaskGIT, Chang et al. 2022, arXiv 2202.04200), `coarse` (Guo et
al. 2025, arXiv 2503.16194), `next_scale` (Tian et al. 2024, arXiv 2404.02905; for configs/vq.py:multi_scale).

For vectors: `mixture` (EM needs no steps), `flow` (RealNVP), `autoregressive` (a masked network, arXiv 1502.03509),
`diffusion` (Ho et al. 2020, arXiv 2006.11239), `flow_matching` (Lipman et al. 2022, arXiv 2210.02747).

`conditional` after any but mixture and flow gives them classes (one for each column of the samples), with guidance
where they have it: `--config=configs/prior.py:transformer,conditional`.
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
        c.model.guidance = 1.5 if c.model.prior not in ("auto", "autoregressive") else 1.0

    def transformer(name, **changes):
        """On codes: more width and a lower rate than convolutions want."""
        def change(c):
            c.model.update(dict(prior=name, hidden=128, layers=4, heads=4, dropout=0.1) | changes)
            c.optim.update(dict(learning_rate=1e-3))
        return change

    def denoising(name):
        def change(c):
            c.model.update(dict(prior=name, hidden=256, layers=3, dropout=0.0))
            c.steps = 3000
            c.optim.update(dict(learning_rate=1e-3, average=0.999))
        return change

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
        c.model.update(dict(hidden=16, layers=2, heads=2, components=2, clusters=4, iterations=3, steps=3))

    return apply_variants(config, arg, dict(
        transformer=transformer("transformer"), linear=transformer("linear_transformer"), axial=transformer("axial"),
        masked=transformer("masked"), coarse=transformer("coarse_to_fine"), next_scale=transformer("next_scale"),
        diffusion=denoising("diffusion"), flow_matching=denoising("flow_matching"), mixture=mixture, flow=flow,
        autoregressive=autoregressive, conditional=conditional, tiny=tiny))
