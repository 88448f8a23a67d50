"""QG-VAE, whose codes each describe the whole image (Elsner et al. 2024, arXiv 2407.11913).

    python experiments/run.py --config=configs/global_codes.py

Trains on the 4,000 embedded digits: 28x28 -> 32 codes of 64, 192 bits. Measured after 400 updates, 320 s on a shared
core: test PSNR 23.3 dB, SSIM .893, 56 of 64 codes in use by perplexity (14.8 dB after 800 updates with maps of half the
side, random projections and tokens of 16).

Variants: `ordered` (prefixes of the codes decode to coarse images; with `--config.model.pyramid=2` short prefixes owe
the image at half and a quarter of its size), `sharp` (with a discriminator), `perceptual` (QGGAN as published: with the
discriminator the distance of features takes the place of the squared error; its VGG16 is
`--config.model.perceptual_features=vgg16.npz`), `gaussian` (a likelihood), `photographs` (colour crops). In 502 s of
one core `perceptual` brings the distance of features from .56 to .27 at 19.1 dB; its first 50 updates with the
discriminator, whose adaptive weight is above 100 then, spoil the images for a while. `configs/prior.py:transformer`
fits a prior.

At the scale of the paper: `paper` (CIFAR-10), `paper_imagenet` (256 codes of 256x256 images, also with `sharp`).
"""

from jaxae.systems.discrete import global_codes
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "discrete.global_codes"
    config.model = global_codes.defaults()
    config.update(dict(steps=400, batch_size=32, eval_every=200, figures_every=200, checkpoint_every=200,
                       prepare_examples=0))
    # Every token has a projection of its own, to few numbers: 64 codes say little about many. Tokens are some 3 wide,
    # pixels less than 1, hence the small beta.
    config.model.update(dict(tokens=32, codes=64, width=3, heads=32, channels=8, most=16, codebook="ema", decay=0.95,
                             beta=0.02))
    config.optim.update(dict(name="adamw", learning_rate=2e-3, weight_decay=0.01, schedule="cosine", warmup_steps=50))
    config.evaluators = ("image_quality",)

    def ordered(c):
        c.model.prefix_dropout = 1 / 3

    def sharp(c):
        c.model.update(dict(adversarial=0.75, adversarial_start=200))

    def perceptual(c):
        sharp(c)
        c.model.update(dict(perceptual=1.0, error_weight=0.0))

    def gaussian(c):
        c.model.update(dict(likelihood="gaussian", scale=0.1))

    def photographs(c):
        c.data.update(dict(source="photographs", size=32))
        c.model.update(dict(channels=16, codes=256))

    def paper(c):
        # 64 codes of 512; batch 32, 100 epochs of 50,000.
        c.data.update(dict(source="tfds:cifar10"))
        c.model.update(dict(start="random", codebook="gradient", beta=1.0, tokens=64, codes=512, width=64, heads=8,
                            channels=16, most=128, decoder_channels=128, smallest=8, blocks=1, octaves=16,
                            reset_every=100, adversarial_start=5000))
        c.optim.update(dict(learning_rate=2e-4, schedule="constant", warmup_steps=0))
        c.update(dict(steps=156_300, batch_size=32, log_every=100, eval_every=5000, figures_every=5000,
                      checkpoint_every=5000))

    def paper_imagenet(c):
        # 256 codes of 512, 288 bytes, from maps of 32x32.
        paper(c)
        c.data.update(dict(source="tfds:imagenet2012", size=256))
        c.model.update(dict(tokens=256, heads=128, reduced=3, blocks=2, reset_every=1000))
        c.update(dict(steps=3_200_000, batch_size=4))

    def tiny(c):
        c.data.size = 8
        # A U with a level below compiles twice as long: one variant has it.
        c.model.update(dict(tokens=4, codes=8, width=4, heads=2, channels=4, most=8, reset_every=1,
                            adversarial_start=0, reduced=int(c.model.prefix_dropout > 0)))

    return apply_variants(config, arg, dict(
        ordered=ordered, sharp=sharp, perceptual=perceptual, gaussian=gaussian, photographs=photographs, paper=paper,
        paper_imagenet=paper_imagenet, tiny=tiny))
