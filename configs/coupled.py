"""The coupled variational autoencoder (Hao and Shafto 2023, arXiv 2306.02565).

    python experiments/run.py --config=configs/coupled.py

A decoder from the plane to a ring of eight Gaussians, under the entropic transport plan between N(0, I) and the data.

The plan is solved by Sinkhorn. Variants: `semidual` (by averaged stochastic ascent), `expected` (all latents of an
example's row, weighted), `digits` (the 4,000 embedded digits, 300 latents in the plan).
"""

from jaxae.systems.transport import coupled
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "transport.coupled"
    config.model = coupled.defaults()
    config.data.update(dict(source="gaussians", num_train=4000, num_test=1000))
    config.model.update(dict(features=(128, 128), likelihood="gaussian", scale=0.2))
    config.update(dict(steps=2000, batch_size=200, log_every=100, eval_every=500, figures_every=1000,
                       checkpoint_every=500, prepare_every=50, prepare_examples=0))

    def semidual(c):
        c.model.form = "semidual"

    def expected(c):
        c.model.sampled = False

    def digits(c):
        c.data.update(dict(source="digits", num_train=0, num_test=0))
        c.model.update(dict(likelihood="bernoulli", draws=300, features=(256, 256)))
        c.update(dict(steps=1000, batch_size=100, prepare_every=200))
        c.evaluators = ("image_quality",)

    def tiny(c):
        c.model.update(dict(features=(16,), draws=20, chunk=10, ascent_steps=4, examples=64))
        c.update(dict(prepare_every=1))

    return apply_variants(config, arg, dict(semidual=semidual, expected=expected, digits=digits, tiny=tiny))
