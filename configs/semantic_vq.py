"""Semantically coupled VQ-model (Alaniz, Hummel and Akata 2022, arXiv 2209.02536): codes for images with maps.

    python experiments/run.py --config=configs/semantic_vq.py
    python experiments/run.py --config=configs/prior.py:semantic --config.autoencoder=runs/semantic_vq

The first trains on 4,000 scenes of 32x32 pixels with the class of each pixel: 8x8 codes of the map and as many of the
image, which is decoded with both (118 s on one core: maps with a mIoU of .94, images at 21.8 dB). The second trains a
transformer on the image's codes given the map's and draws images for the test set's maps (107 s, 155 nats an image);
`jaxae.data.scenes.segment` tells the class of each drawn pixel by its hue: with experiments/draw_maps.py the drawn
images have a mIoU of .61 with their maps, the reconstructions .86.

Variants: `separate` (the baseline: two VQ-models apart), `encoder` (the image's encoder sees the map's features too),
`adversarial` (a discriminator of patches, whose weight adapts to the gradients), `l1`, `vqgan` (the networks and all
losses of VQGAN, small: the features are the digits' classifier's, of each colour; 22 minutes on one core, mIoU .89).

At the scale of the paper, 256x256 images in 16x16 codes, from your own copies of the data as images and maps of one
name (`--config.data.source=pairs:PATH`; see jaxae.data.pairs for how to lay them out): `paper_ade20k` (151 classes),
`paper_cityscapes` (34), `paper_coco` (COCO-Stuff, 183 as the paper counts them). `paper` is the first of them.
"""

from jaxae.systems.discrete import semantic_vq
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "discrete.semantic_vq"
    config.model = semantic_vq.defaults()
    config.data.update(dict(source="scenes", size=32))
    config.update(dict(steps=2400, batch_size=32, eval_every=600, figures_every=1200, checkpoint_every=600))
    config.model.update(dict(channels=(16, 32), blocks=1, hidden=16, codes=64, semantic_codes=64, width=16,
                             start="data"))
    config.optim.update(dict(learning_rate=4e-3, schedule="cosine", warmup_steps=50))
    config.evaluators = ("image_quality", "frechet")

    def separate(c):
        c.model.coupling = "none"

    def encoder(c):
        c.model.coupling = "encoder+decoder"

    def l1(c):
        c.model.error = "l1"

    def adversarial(c):
        c.model.update(dict(gan=0.8, gan_start=1200, patch_rate=5e-4))

    def vqgan(c):
        c.model.update(dict(network="taming", channels=(16, 32, 32), blocks=1, attention_sizes=(8,), z_channels=32,
                            codebook="gradient", start="uniform", revive=0.0, error="l1", perceptual=1.0,
                            perceptual_features="digits_by_colour", gan=0.2, gan_start=400, patch_channels=(16, 32),
                            patch_strides=(2, 2), patch_rate=1e-3))
        c.optim.update(dict(learning_rate=2e-3, b1=0.5, b2=0.9))
        c.update(dict(steps=800, eval_every=200, figures_every=400, checkpoint_every=200))

    def paper(classes, steps):
        """As VQGAN (Esser et al. 2021): its networks and losses, 16 times smaller maps of codes, learned by gradients;
        rate 4.5e-6 an example. The weights of VGG16 are yours to give: see jaxae.nn.vgg.read_vgg16. The number of
        updates is ours."""
        def change(c):
            c.data.update(dict(source="pairs:data", size=256, classes=classes, ignore=255, augment=("flip",)))
            c.model.update(dict(
                classes=classes, network="taming", channels=(128, 128, 256, 256, 512), blocks=2, attention_sizes=(16,),
                z_channels=256, codes=1024, semantic_codes=1024, width=256, codebook="gradient", start="uniform",
                revive=0.0, error="l1", error_weight=2.0, perceptual=1.0, perceptual_features="vgg16.npz", gan=0.8,
                gan_start=steps // 10, patch_channels=(64, 128, 256, 512), patch_strides=(2, 2, 2, 1)))
            c.model.patch_rate = 4.5e-6 * 16
            c.optim.update(dict(learning_rate=4.5e-6 * 16, schedule="constant", warmup_steps=0, b1=0.5, b2=0.9))
            c.update(dict(steps=steps, batch_size=16, log_every=100, eval_every=10_000, figures_every=10_000,
                          checkpoint_every=10_000))
        return change

    def tiny(c):
        c.data.update(dict(size=16, num_train=200, num_test=50))
        c.evaluators = ("image_quality",)
        c.model.update(dict(channels=(8, 8), blocks=1, hidden=8, attention_sizes=(), codes=16, semantic_codes=8,
                            width=8, gan_start=0, patch_channels=(8,), patch_strides=(2,)))

    return apply_variants(config, arg, dict(separate=separate, encoder=encoder, l1=l1, adversarial=adversarial,
                                            vqgan=vqgan, paper=paper(151, 300_000), paper_ade20k=paper(151, 300_000),
                                            paper_cityscapes=paper(34, 100_000), paper_coco=paper(183, 500_000),
                                            tiny=tiny))
