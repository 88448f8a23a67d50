"""VQGAN (Esser, Rombach and Ommer 2021, arXiv 2012.09841): codes whose images features and a discriminator judge.

    python experiments/run.py --config=configs/vqgan.py
    python experiments/run.py --config=configs/prior.py:transformer --config.autoencoder=runs/vqgan

The first trains on the 4,000 embedded digits: 28x28 -> a 7x7 map of codes, with the features of the digit classifier
and, from the middle of the run on, a discriminator of patches. The second fits a prior on its codes.

Quantizers: `cosine`, `rotation` (Fifty et al. 2024, arXiv 2410.06424), `fsq` (Mentzer et al. 2023, arXiv 2309.15505),
`lfq` (Yu et al. 2023, arXiv 2310.05737); the others of configs/vq.py by the same keys. `plain` (neither features nor
discriminator), `conv` (the networks of configs/vq.py), `photographs` (colour crops; no features, as VGG16's weights do
not come with the library).

At the scale of papers, on ImageNet at 256x256. Features are VGG16's, whose weights you give as `vgg16.npz` (see
jaxae.nn.vgg.read_vgg16), or `--config.model.perceptual=0.0`. A quantizer's name after one of these changes that alone:

- `paper_taming`: 16x16 codes of 1,024, as VQGAN was published.
- `paper_separation_imagenet` (16,384 codes), `paper_separation_celeba` (1,024, faces at 256x256) and
  `paper_separation_celeba_64` (the same faces at 64x64, halved twice): the tokenizers by whose codes Postolache et al.
  2023, arXiv 2301.08562, separate pairs of images, with priors of the same names in configs/prior.py
  (`paper_separation_celeba` for both sizes) and experiments/separate.py.
- `paper_rotation_16x16x256`, `paper_rotation_64x64x3` (8,192 codes) and `paper_rotation_32x32x4` (16,384): VQGANs with
  the rotation trick, the last two with the networks of latent diffusion (Rombach et al. 2021, arXiv 2112.10752).
- `paper_rotation_vqvae_32x32x32` (1,024 codes) and `paper_rotation_vqvae_64x64x3` (8,192): the same paper's VQ-VAEs,
  mean squared error alone; with `cosine` after them the other half of its table.
- `paper_fsq`: MaskGIT's tokenizer with finite scalars of 8, 5, 5 and 5 levels.
- `paper_llamagen`: LlamaGen's (Sun et al. 2024, arXiv 2406.06525), 16,384 codes of width 8 by angle, which Guo et al.
  2025, arXiv 2503.16194, cluster (configs/prior.py:paper_coarse).
"""

from jaxae.systems.discrete import vqgan
from jaxae.train.config import apply_variants, base

F16, F8, F4 = (128, 128, 256, 256, 512), (128, 256, 256, 512), (128, 256, 512)  # channels by resolution


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "discrete.vqgan"
    config.model = vqgan.defaults()
    config.update(dict(steps=500, batch_size=16, eval_every=125, figures_every=250, checkpoint_every=125))
    config.model.update(dict(channels=(8, 16, 32), blocks=1, attention_sizes=(7,), codes=256, width=16,
                             gan=0.2, gan_start=250, patch_channels=(16, 32), patch_strides=(2, 2), patch_rate=2e-3))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))
    config.evaluators = ("image_quality",)

    def quantizer(name="vector", **changes):
        def change(c):
            c.model.update(dict(quantizer=name) | changes)
        return change

    def plain(c):
        c.model.update(dict(error="mse", perceptual=0.0, gan=0.0))

    def conv(c):
        c.model.update(dict(network="conv", channels=(32, 64), hidden=32))

    def photographs(c):
        c.data.update(dict(source="photographs", size=32))
        c.model.update(dict(attention_sizes=(8,), perceptual=0.0))

    def imagenet(c, batch_size, epochs, **model):
        """A codebook that gradients move, without revival; images are in [0, 1], the paper's in [-1, 1]."""
        steps = round(epochs * 1_281_167 / batch_size, -2)
        c.data.update(dict(source="tfds:imagenet2012", size=256, augment=("flip",)))
        c.update(dict(steps=int(steps), batch_size=batch_size, log_every=100, eval_every=10_000, figures_every=10_000,
                      checkpoint_every=5000))
        c.model.update(dict(
            blocks=2, attention_sizes=(), codebook="gradient", start="uniform", revive=0.0, error="l1",
            error_weight=2.0, perceptual=1.0, perceptual_features="vgg16.npz", gan_start=0,
            patch_channels=(64, 128, 256, 512), patch_strides=(2, 2, 2, 1)) | model)
        c.optim.update(dict(schedule="constant", warmup_steps=0))

    def taming(c, batch_size, **model):
        """A rate of 4.5e-6 for each example of the batch, which is that of the published code; 10 epochs are ours."""
        imagenet(c, batch_size, 10, **model)
        c.optim.update(dict(learning_rate=4.5e-6 * batch_size, b1=0.5, b2=0.9))
        c.model.patch_rate = c.optim.learning_rate

    def paper_taming(c):
        taming(c, 96, channels=F16, attention_sizes=(16,), z_channels=256, width=256, codes=1024, gan=0.8)

    def paper_separation_imagenet(c):
        paper_taming(c)
        c.model.codes = 16384

    def paper_separation_celeba(c):
        # CelebA's cropped faces for CelebA-HQ's: tensorflow-datasets makes the latter by hand only. 50 epochs are ours.
        paper_taming(c)
        c.data.source = "tfds:celeb_a"
        c.steps = 84_800

    def paper_separation_celeba_64(c):
        paper_separation_celeba(c)
        c.data.size = 64
        c.model.update(dict(channels=F4, attention_sizes=(16,), patch_channels=(64, 128), patch_strides=(2, 2)))

    def paper_rotation_16(c):
        paper_taming(c)
        c.model.update(dict(estimator="rotation", gan=0.75))

    def paper_rotation_64(c):
        taming(c, 64, channels=F4, width=3, codes=8192, estimator="rotation", gan=0.75)

    def paper_rotation_32(c):
        taming(c, 64, channels=F8, attention_sizes=(32,), width=4, codes=16384, estimator="rotation", gan=0.6,
               gan_start=1, patch_channels=(64, 128, 256), patch_strides=(2, 2, 1))

    def paper_vqvae(**model):
        """8 batches of 32 an update; the rate falls to a half. 32x32 codes are of images halved three times: the
        network is latent diffusion's for that, as the published code's, of five resolutions, halves them four times."""
        def change(c):
            imagenet(c, 256, 100, codebook="ema", decay=0.8, estimator="rotation", beta=1.0, error="mse",
                     error_weight=1.0, perceptual=0.0, gan=0.0, **model)
            c.optim.update(dict(name="adamw", learning_rate=1e-4, weight_decay=1e-4, b2=0.99, schedule="cosine",
                                warmup_steps=3000, decay_steps=50_000, final_scale=0.5, accumulate=8))
        return change

    def paper_fsq(c):
        # MaskGIT's networks attend nowhere, ours in the middle. The rates, weights and 100 epochs are ours.
        imagenet(c, 256, 100, channels=F16, z_channels=256, quantizer="finite_scalar", levels=(8, 5, 5, 5), gan=0.1)
        c.optim.update(dict(learning_rate=1e-4, b1=0.0, b2=0.99))

    def paper_llamagen(c):
        imagenet(c, 128, 40, channels=F16, attention_sizes=(16,), z_channels=256, width=8, codes=16384,
                 distance="cosine", start="normal", error="mse", error_weight=4.0, gan=0.5, gan_start=20_000)
        c.optim.update(dict(learning_rate=1e-4, b2=0.95, clip=1.0))
        c.model.patch_rate = 1e-4

    def tiny(c):
        c.data.size = 8
        c.model.update(dict(channels=(8,), blocks=1, hidden=8, attention_sizes=(), codes=16, width=8, gan_start=0,
                            patch_channels=(8,), patch_strides=(2,)))

    return apply_variants(config, arg, dict(
        cosine=quantizer(distance="cosine"), rotation=quantizer(estimator="rotation"),
        fsq=quantizer("finite_scalar", levels=(8, 6, 5)), lfq=quantizer("lookup_free", width=8, entropy_weight=0.01),
        plain=plain, conv=conv, photographs=photographs,
        paper_taming=paper_taming, paper_separation_imagenet=paper_separation_imagenet,
        paper_separation_celeba=paper_separation_celeba, paper_separation_celeba_64=paper_separation_celeba_64,
        paper_rotation_16x16x256=paper_rotation_16,
        paper_rotation_64x64x3=paper_rotation_64, paper_rotation_32x32x4=paper_rotation_32,
        paper_rotation_vqvae_32x32x32=paper_vqvae(channels=F8, z_channels=256, width=32, codes=1024),
        paper_rotation_vqvae_64x64x3=paper_vqvae(channels=F4, width=3, codes=8192), paper_fsq=paper_fsq,
        paper_llamagen=paper_llamagen, tiny=tiny))
