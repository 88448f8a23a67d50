r"""The coupled variational autoencoder (Hao and Shafto 2023, arXiv 2306.02565).

    python experiments/run.py --config=configs/coupled.py

A decoder from the plane to a ring of eight Gaussians, under the entropic transport plan between N(0, I) and the data.

The plan is solved by Sinkhorn. Variants: `semidual` (by averaged stochastic ascent), `dual` (with a network as the
latents' potential), `amortised` (an encoder and an MMD in place of the plan), `expected` (all latents of an example's
row, weighted), `digits` (the 4,000 embedded digits, 300 latents in the plan), `paper` (MNIST at the paper's
scale), `paper_celeba`. As in the paper, the decoder may start from a trained VAE's:

    python experiments/run.py --config=configs/coupled.py:digits --config.init_from=WORKDIR \
        --config.init_parts='("decoder",)'
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

    def dual(c):
        c.model.form = "dual"

    def amortised(c):
        c.model.form = "amortised"
        c.update(dict(prepare_every=0))

    def expected(c):
        c.model.sampled = False

    def digits(c):
        c.data.update(dict(source="digits", num_train=0, num_test=0))
        c.model.update(dict(likelihood="bernoulli", draws=300, features=(256, 256)))
        c.update(dict(steps=1000, batch_size=100, prepare_every=200))
        c.evaluators = ("image_quality",)

    def paper(c):
        # Semi-dual, latents in the plane, 3,000 draws in 20 chunks, solved anew every epoch at a rate of 1,000 (here
        # for each of 60,000 examples); Adam from 1e-4 to 1e-5 by a cosine in 100 epochs of batches of 512.
        c.data.update(dict(source="tfds:mnist", size=32, num_train=0, num_test=0))
        c.model.update(dict(form="semidual", likelihood="bernoulli", network="conv", channels=(32, 64, 128), blocks=0,
                            draws=3000, chunk=150, ascent_rate=1 / 60, ascent_steps=117, examples=60_000))
        c.update(dict(steps=11_700, batch_size=512, eval_every=1170, figures_every=1170, checkpoint_every=1170,
                      prepare_every=117))
        c.optim.update(dict(learning_rate=1e-4, schedule="cosine", final_scale=0.1))

    def paper_celeba(c):
        # The paper shows faces and does not state their settings: those of its digits, with 64 latents and a fixed
        # Gaussian. `--config.init_from=WORKDIR --config.init_parts='("decoder",)'` starts from a VAE's decoder.
        paper(c)
        c.data.update(dict(source="tfds:celeb_a", size=64))
        c.model.update(dict(likelihood="gaussian", scale=0.1, latent=64, channels=(32, 64, 128, 256),
                            ascent_rate=1 / 163, ascent_steps=317, examples=162_770))
        c.update(dict(steps=31_700, eval_every=3170, figures_every=3170, checkpoint_every=3170, prepare_every=317))

    def tiny(c):
        c.model.update(dict(features=(16,), draws=20, chunk=10, ascent_steps=4, examples=64, potential=(8,)))
        c.update(dict(prepare_every=1))

    return apply_variants(config, arg, dict(semidual=semidual, dual=dual, amortised=amortised, expected=expected,
                                            digits=digits, paper=paper, paper_celeba=paper_celeba, tiny=tiny))
