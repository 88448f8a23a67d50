"""Disentangling on sprites with known factors: capacities (Burgess et al. 2018, arXiv 1804.03599) and their rivals.

    python experiments/run.py --config=configs/sprites.py

Trains the VAE of growing capacity on 5,530 sprites of 32x32 pixels (3 shapes, 4 scales, 8 orientations, 8x8 places)
and scores its latents against the factors. `figures/` has, every 1,000 steps, traversals and the KL of each latent, so
that they are seen to open one by one as the capacity grows.

Variants, all on the same data and networks: `vae` and `beta` (weight 4: Higgins et al., ICLR 2017), `joint` (with one
categorical latent: Dupont 2018, arXiv 1804.00104), `joint_beta` (the same by weights of 4 in place of capacities),
`beta_tc` (Chen et al. 2018, arXiv 1802.04942), `factor` (Kim and Mnih 2018, arXiv 1802.05983), `rate_distortion` (six
capacities side by side: `results.json` has `kl` and `reconstruction` of each, the rate-distortion curve).
`joint_digits` is Dupont's model of digits, resized to 32x32, with a categorical latent of 10.

`qlae` is the quantized-latent autoencoder of Hsu et al. 2023, arXiv 2305.18378, with its strong weight decay on the
networks alone and its metrics InfoM, InfoE and InfoC, on 576 sprites of one orientation; each row of its traversals is
one latent at each of its values. Its networks here are dense, its decay 1 and its rate 5e-3, so that rate x decay x
updates is near the paper's 20 in half a minute; what that reaches in 4 seeds is InfoM .49, InfoE .94 and a PSNR of 22.5
dB on the test split, against .42, .67 and 23.8 dB of an autoencoder with continuous latents. A third of what a latent
tells is still of other sources than its first: the rows of the traversals change more than one. Its ablations:
`qlae_shared` (one row of values for all latents), `qlae_fixed` (values that do not move), `qlae_vectors` (vectors in
the place of numbers), `qlae_no_decay`. `ql_infogan` is the paper's generative adversarial network on the same codes
(QLInfoWGAN-GP), `infogan` its baseline, which is told numbers without quantization (InfoWGAN-GP); both have the paper's
networks, an encoder of convolutions and a decoder whose maps take the latent as their style, in small, and draw sprites
of right sizes with ragged edges after 110 s; codes have no higher InfoM than numbers here (.36 against .41, 4 seeds).
`paper_qlae` and `paper_ql_infogan` are Shapes3D in 64x64 pixels, 12 latents of 10 values, in the paper's networks and
settings.

`paper` comes after the name of a model: 64x64 pixels and as many values of each factor as dSprites has, the networks
and settings of Burgess et al., or of Dupont with `joint`; `joint_digits,paper` is the latter's MNIST.
"""

import importlib
import math

from jaxae.systems.discrete import ql_infogan, vq_vae
from jaxae.systems.gaussian import capacity
from jaxae.train.config import apply_variants, base

FACTORS = (3, 4, 8, 8, 8)  # values of shape, scale, orientation, x and y
DSPRITES = (3, 6, 40, 32, 32)


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "gaussian.capacity"
    config.model = capacity.defaults()
    config.data.update(dict(source="sprites", size=32, factor_sizes=FACTORS))
    networks = dict(network="dcgan", channels=(16, 32, 32), features=(128,))
    config.model.update(dict(latent=10, capacity=16.0, gamma=200.0, capacity_steps=7200) | networks)
    config.update(dict(steps=8000, batch_size=64, log_every=100, eval_every=2000, figures_every=1000,
                       checkpoint_every=2000))
    config.optim.update(dict(learning_rate=1e-3, schedule="cosine", final_scale=0.1))
    config.evaluators = ("image_quality", "disentanglement")
    config.update(dict(votes=10_000, dci_predictor="logistic"))  # of the second

    def model(name, *evaluators, **changes):
        """The system of that name, with the networks of this config."""
        def change(c):
            module = importlib.import_module(f"jaxae.systems.gaussian.{name}")
            c.system, c.model = f"gaussian.{name}", module.defaults()
            c.model.update(dict(latent=10) | networks | changes)
            c.evaluators = (*c.evaluators, *evaluators)
        return change

    def joint(**changes):
        return model("joint", "clusters", **dict(latent=6, categories=(3,), capacity_steps=7200) | changes)

    weights = dict(capacity=0.0, categorical_capacity=0.0, gamma=4.0, categorical_gamma=4.0)
    images = math.prod(FACTORS)
    examples = images - round(0.1 * images)

    def rate_distortion(c):
        c.sweep = (("model.capacity", (2.0, 4.0, 8.0, 12.0, 16.0, 20.0)),)
        c.evaluators = ("image_quality",)

    def paper(c):
        digits = c.data.source == "digits"
        c.data.update(dict(source="tfds:mnist") if digits else dict(size=64, factor_sizes=DSPRITES))
        c.optim.update(dict(learning_rate=5e-4, schedule="constant"))
        c.model.update(dict(network="dcgan", channels=(32, 32, 32, 32), features=(256, 256)))
        long(c, 300_000)
        if c.system == "gaussian.capacity":
            c.model.update(dict(gamma=1000.0, capacity_start=0.5, capacity=25.0, capacity_steps=100_000))
        elif digits:
            c.model.update(dict(channels=(32, 64, 64), features=(256,), capacity_steps=25_000))
            long(c, 100 * 60_000 // 64)  # 100 passes
        elif c.system == "gaussian.joint":
            c.model.update(dict(channels=(32, 32, 64, 64), features=(256,), gamma=150.0, categorical_gamma=150.0,
                                capacity=40.0, categorical_capacity=1.1, capacity_steps=300_000))
            long(c, 30 * math.prod(DSPRITES) // 64)  # 30 passes
        elif "examples" in c.model:
            c.model.examples = math.prod(DSPRITES)

    def joint_digits(c):
        joint(latent=10, categories=(10,), capacity=5.0, categorical_capacity=5.0)(c)
        c.data.update(dict(source="digits", factor_sizes=()))
        c.evaluators = ("image_quality", "clusters")

    def long(c, steps):
        c.update(dict(steps=steps, log_every=1000, eval_every=steps // 10, figures_every=steps // 10,
                      checkpoint_every=steps // 10))

    quantized = dict(width=8, codes=8, beta=0.01, likelihood="bernoulli")
    dense = dict(network="mlp", features=(128, 128))
    style = dict(network="style", channels=(4, 16, 32), features=(64, 64), blocks=0)

    def qlae(**changes):
        def change(c):
            c.system, c.model = "discrete.vq_vae", vq_vae.defaults()
            c.model.update(quantized | dense | dict(quantizer="latent", positions=1) | changes)
            c.data.factor_sizes = (3, 3, 1, 8, 8)
            c.optim.update(dict(name="adamw", learning_rate=5e-3, warmup_steps=200, weight_decay=1.0,
                                decay_exclude=("codes", "bias"), clip_elements=1.0))
            c.update(dict(steps=10_000, batch_size=32))
            c.evaluators = ("image_quality", "infomec")
        return change

    def qlae_no_decay(c):
        qlae()(c)
        c.optim.weight_decay = 0.0

    def ql_infogan_(c):
        qlae()(c)
        c.system, c.model = "discrete.ql_infogan", ql_infogan.defaults()
        c.model.update(quantized | style)
        c.optim.update(dict(learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=1e-3, b1=0.0, b2=0.9))
        c.update(dict(steps=1500, batch_size=16, eval_every=500, figures_every=500))

    def infogan(c):
        ql_infogan_(c)
        # At the published 200, which quantized latents meet by values that lie close together, no sprites are drawn.
        c.model.update(dict(codes=0, latent_weight=10.0))
        c.optim.weight_decay = 1e-4

    def shapes3d(model, steps, batch_size, rate, decay):
        def change(c):
            model(c)
            c.model.update(dict(network="style", channels=(32, 64, 128, 256), features=(256, 256), blocks=2, width=12,
                                codes=10))
            c.data.update(dict(source="tfds:shapes3d", train_split="train[10000:]", test_split="train[:10000]", size=0,
                               factor_sizes=()))
            c.optim.update(dict(learning_rate=rate, schedule="constant", warmup_steps=0, weight_decay=decay))
            c.batch_size = batch_size
            c.evaluators = ("image_quality",)
            long(c, steps)
        return change

    def tiny(c):
        c.data.size = 16
        c.model.update(dict(channels=(4, 4), features=(16,), latent=4) if "latent" in c.model else dict(
            channels=(4, 4), features=(16,)))
        if "critic" in c.model:
            c.model.critic = (16,)
        c.evaluators = ("image_quality",)

    return apply_variants(config, arg, dict(
        vae=model("vae"), beta=model("vae", beta=4.0), joint=joint(capacity=12.0, categorical_capacity=1.1),
        joint_beta=joint(**weights), beta_tc=model("total_correlation", tc=6.0, examples=examples),
        factor=model("total_correlation", estimator="adversary", tc=10.0, examples=examples),
        joint_digits=joint_digits, rate_distortion=rate_distortion, qlae=qlae(), qlae_shared=qlae(shared=True),
        qlae_fixed=qlae(learned=False), qlae_no_decay=qlae_no_decay,
        qlae_vectors=qlae(quantizer="vector", codebook="gradient", positions=8, width=16, start="kmeans", revive=0.0,
                          beta=0.25),
        ql_infogan=ql_infogan_, infogan=infogan, paper_qlae=shapes3d(qlae(), 200_000, 128, 1e-3, 0.1),
        paper_ql_infogan=shapes3d(ql_infogan_, 40_000, 64, 2e-4, 1e-3), paper=paper, tiny=tiny))
