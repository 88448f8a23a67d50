"""Importance weighted autoencoders (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519).

    python experiments/run.py --config=configs/iwae.py

The 1-layer model, 784-200-200-50, on the 4,000 embedded digits, binarised anew in every epoch; k = 5.

Variants: `dreg`, `stl`, `sampled` (gradient estimators), `miwae`, `ciwae`, `piwae` (Rainforth et al. 2018,
arXiv 1802.04537), `vae` (k draws of the ELBO), `two_layers` (784-200-200-100-100-100-50),
`paper` (MNIST, k = 50, 3,280 passes) and `paper_omniglot`, which follow the paper's steps of the learning rate.
"""

from jaxae.systems.gaussian import iwae, two_layer_iwae
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "gaussian.iwae"
    config.model = iwae.defaults()
    config.model.update(dict(features=(200, 200), latent=50, activation="tanh"))
    config.data.binarize = "dynamic"
    config.optim.update(dict(eps=1e-4))
    config.update(dict(steps=6000, batch_size=20, log_every=200, eval_every=2000, figures_every=3000,
                       checkpoint_every=2000))
    config.evaluators = ("nll",)

    def estimator(name, **changes):
        def change(c):
            c.model.update(dict(estimator=name) | changes)
        return change

    def ciwae(c):
        c.model.elbo_share = 0.5

    def two_layers(c):
        c.system, c.model = "gaussian.two_layer_iwae", two_layer_iwae.defaults()

    def full_scale(source, images):
        def change(c):
            # The rate is 1e-3 * 10^(-i/7) for 3^i passes, i = 0..7: 3,280 passes in all.
            one_pass = images // 20
            c.data.update(dict(source=source, size=28))
            c.model.samples = 50
            c.optim.update(dict(schedule="piecewise",
                                drops=tuple(((3**i - 1) // 2 * one_pass, 10 ** (-1 / 7)) for i in range(1, 8))))
            seldom = 100 * one_pass
            c.update(dict(steps=3280 * one_pass, log_every=one_pass, eval_every=seldom, figures_every=seldom,
                          checkpoint_every=seldom))
        return change

    def tiny(c):
        c.model.update(dict(features=(32,), samples=4))
        c.model.update(dict(latent=4) if "latent" in c.model else dict(latents=(6, 4), between=(16,)))
        c.evaluators = ()

    return apply_variants(config, arg, dict(
        dreg=estimator("dreg"), stl=estimator("stl"), sampled=estimator("sampled"), vae=estimator("vae"),
        miwae=estimator("iwae", groups=2, samples=8), piwae=estimator("piwae", groups=2, samples=8), ciwae=ciwae,
        two_layers=two_layers, paper=full_scale("tfds:mnist", 60_000),
        paper_omniglot=full_scale("tfds:omniglot", 24_340), tiny=tiny))
