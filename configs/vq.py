"""VQ-VAE (van den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937).

    python experiments/run.py --config=configs/vq.py

Trains on the 4,000 embedded digits: 28x28 -> a 7x7 map of codes.

Variants (`--config=configs/vq.py:gradient`): `gradient` (codebook moved by its own loss instead of moving
averages), `gaussian`, `logistic` (likelihoods in place of the mean squared error), `photographs` (colour crops),
`pixelcnn` (autoregressive decoder on 14x14 binary digits), `paper` (CIFAR-10 at the paper's scale).
"""

from jaxae.systems.discrete import vq_vae
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "discrete.vq_vae"
    config.model = vq_vae.defaults()
    config.update(dict(steps=1000, batch_size=100, eval_every=250, figures_every=500, checkpoint_every=250))
    config.model.update(dict(channels=(32, 64), blocks=1, hidden=32, codes=256, width=32))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))
    config.evaluators = ("image_quality",)

    def gradient(c):
        c.model.update(dict(codebook="gradient"))

    def gaussian(c):
        c.model.update(dict(likelihood="gaussian", scale=0.1))

    def logistic(c):
        c.model.update(dict(likelihood="discretized_logistic"))

    def photographs(c):
        c.data.update(dict(source="photographs", size=32))

    def pixelcnn(c):
        c.data.update(dict(size=14, binarize="static"))
        c.model.update(dict(likelihood="bernoulli", decoder="pixelcnn", channels=(32,), pixelcnn_layers=3))
        c.evaluators = ()

    def paper(c):
        # CIFAR-10, 8x8x10 latents: 10 code maps are one map of 80 rows in the paper's bits; here 8x8 maps of K=512.
        c.data.update(dict(source="tfds:cifar10"))
        c.model.update(dict(channels=(256, 256), blocks=2, hidden=256, codes=512, width=64, codebook="gradient",
                            start="uniform", revive=0.0, likelihood="discretized_logistic"))
        c.optim.update(dict(learning_rate=2e-4, schedule="constant", warmup_steps=0))
        c.update(dict(steps=250_000, batch_size=128, log_every=100, eval_every=5000, figures_every=5000,
                      checkpoint_every=5000))

    def tiny(c):
        c.model.update(dict(channels=(8,) * len(c.model.channels), blocks=1, hidden=8, codes=16, width=8,
                            pixelcnn_hidden=8, pixelcnn_layers=2))
        c.data.size = 8 if c.model.decoder == "pixelcnn" else c.data.size

    return apply_variants(config, arg, dict(gradient=gradient, gaussian=gaussian, logistic=logistic,
                                            photographs=photographs, pixelcnn=pixelcnn, paper=paper, tiny=tiny))
