"""VQ-VAE (van den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937).

    python experiments/run.py --config=configs/vq.py

Trains on the 4,000 embedded digits: 28x28 -> a 7x7 map of codes.

Other quantizers: `gradient` (codebook moved by its own loss instead of moving averages), `cosine`, `rotation` (Fifty
et al. 2024, arXiv 2410.06424), `householder`, `exact` and `hessian` (its baselines), `stochastic` (sampled codes),
`gumbel` (Jang et al. 2016, arXiv 1611.01144), `simvq` (Zhu et al. 2024, arXiv 2411.02038), `fsq` (Mentzer et al. 2023,
arXiv 2309.15505), `lfq` (Yu et al. 2023, arXiv 2310.05737), `bsq` (Zhao et al. 2024, arXiv 2406.07548), `latent` (Hsu
et al. 2023, arXiv 2305.18378), `product` (4 heads), `residual` (Zeghidour et al. 2021, arXiv 2107.03312), `grouped`
(residual, in 2 heads), `residual_fsq`, `multi_scale` (Tian et al. 2024, arXiv 2404.02905).

Others (`--config=configs/vq.py:fsq,gaussian` combines): `gaussian`, `logistic` (likelihoods in place of the mean
squared error), `photographs` (colour crops), `pixelcnn` (autoregressive decoder on 14x14 binary digits), `paper`
(CIFAR-10 at the paper's scale), `paper_separation` (MNIST at the scale of Postolache et al. 2023, arXiv 2301.08562, for
experiments/separate.py).
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

    def quantizer(name, **changes):
        def change(c):
            c.model.update(dict(quantizer=name) | changes)
        return change

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

    def paper_separation(c):
        # Postolache et al. 2023: MNIST for 500 epochs.
        c.data.update(dict(source="tfds:mnist"))
        c.model.update(dict(channels=(128, 128), blocks=2, hidden=128, codes=256, width=128, codebook="gradient",
                            start="uniform", revive=0.0))
        c.optim.update(dict(learning_rate=1e-4, schedule="constant", warmup_steps=0))
        c.update(dict(steps=468_500, batch_size=64, log_every=100, eval_every=9370, figures_every=9370,
                      checkpoint_every=9370))

    quantizers = dict(
        gradient=quantizer("vector", codebook="gradient"), cosine=quantizer("vector", distance="cosine"),
        stochastic=quantizer("vector", temperature=0.1), gumbel=quantizer("gumbel"), simvq=quantizer("simvq"),
        fsq=quantizer("finite_scalar", levels=(8, 6, 5)), lfq=quantizer("lookup_free", width=8, entropy_weight=0.01),
        bsq=quantizer("binary_spherical", width=8), latent=quantizer("latent", codes=4, width=4, beta=0.01),
        product=quantizer("vector", heads=4), residual=quantizer("vector", depth=4, codes=64),
        grouped=quantizer("vector", depth=2, heads=2, codes=64),
        residual_fsq=quantizer("finite_scalar", levels=(5, 5, 3), depth=3),
        multi_scale=quantizer("multi_scale")) | {
            name: quantizer("vector", estimator=name) for name in ("rotation", "householder", "exact", "hessian")}

    def tiny(c):
        c.model.update(dict(channels=(8,) * len(c.model.channels), blocks=1, hidden=8, codes=16, width=8,
                            pixelcnn_hidden=8, pixelcnn_layers=2))
        c.data.size = 8 if c.model.decoder == "pixelcnn" else c.data.size

    return apply_variants(config, arg, quantizers | dict(
        gaussian=gaussian, logistic=logistic, photographs=photographs, pixelcnn=pixelcnn, paper=paper,
        paper_separation=paper_separation, tiny=tiny))
