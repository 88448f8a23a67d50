"""An autoregressive model of pixels: exact bits per dimension, samples pixel by pixel.

    python experiments/run.py --config=configs/pixels.py

Trains a gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328) on the 4,000 embedded digits at 14x14 pixels of 8
grey levels. The figure `samples` shows draws, `completions` images, their upper halves, and two ways to go on.

Other models: `transformer` (causal over all pixels), `linear` (with linear attention, Katharopoulos et al. 2020, arXiv
2006.16236), `axial` (the Axial Transformer, Ho et al. 2019, arXiv 1912.12180), `row` (that without its outer decoder:
rows that know nothing of each other, for comparison), `masked` (filled in by iterations; a bound).

Videos: `video` (the Axial Transformer of digits that move and bounce: 6 frames of 16x16 pixels in 4 grey levels, those
after the first two given these; `samples` shows a video in each row, `completions` four videos, each above two ways in
which its first frames go on), `frame` (that without its blocks over earlier frames: each frame alone). `video` reaches
0.226 bits per dimension in 290 s on one core: digits stay where they should be and as light, but do not keep their
shape.

After them: `conditional` (on the digit's class, a column of the samples for each), `logistic_mixture` (mixtures of 10
logistics over ordered levels in place of a softmax, and pixels as real numbers in place of embedded levels in the
transformers), `colour` (photographs of 8x8 pixels in 3 channels of 16 levels, by linear attention where no other is
named: one channel after another in each pixel, or for `axial` all pixels of one after those of another). They combine:
`--config=configs/pixels.py:axial,colour`.

At the papers' scale: `paper_mnist_linear` and `paper_cifar_linear` (Katharopoulos et al. 2020), `paper_imagenet32` (Ho
et al. 2019, sizes of the official code) and `paper_bair` (the same: 15 frames of 64x64 pixels of a robot's arm from 1).
"""

from jaxae.systems.autoregressive import pixels
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "autoregressive.pixels"
    config.model = pixels.defaults()
    config.update(dict(steps=1000, batch_size=50, eval_every=250, figures_every=1000, checkpoint_every=250))
    config.data.update(dict(size=14, levels=8))
    config.model.update(dict(hidden=32, layers=5, dropout=0.1))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50, clip=1.0))

    def transformer(name, **changes):
        def change(c):
            c.model.update(dict(prior=name, hidden=64, layers=4, heads=4) | changes)
        return change

    def conditional(c):
        c.model.update(dict(conditional=True, classes=10))

    def logistic_mixture(c):
        c.model.update(dict(output="logistic_mixture", inputs="values"))

    def colour(c):
        c.data.update(dict(source="photographs", size=8, levels=16))
        c.model.dropout = 0.0
        if c.model.prior == "auto":  # the PixelCNN has one channel
            transformer("linear_transformer")(c)

    def video(c):
        c.data.update(dict(source="moving_digits", size=16, frames=6, digit_size=10, speed=2.0, levels=4, num_test=100))
        if c.model.prior == "auto":
            transformer("axial")(c)
        c.model.update(dict(hidden=32, given=True, prefix=2, dropout=0.0))
        c.optim.learning_rate = 4e-3
        c.update(dict(batch_size=4, steps=700, eval_every=350, figures_every=700, checkpoint_every=350))

    def frame(c):
        transformer("frame")(c)
        video(c)

    def linear_at_scale(source, size, channels, layers, batch_size, steps):
        """8 heads of 32, MLPs of 1,024, mixtures of 10 logistics, RAdam at 1e-4."""
        def change(c):
            c.data.update(dict(source=source, size=size, channels=channels, levels=256))
            c.model.update(dict(prior="linear_transformer", hidden=256, heads=8, layers=layers, dropout=0.0,
                                output="logistic_mixture", inputs="codes"))
            c.optim.update(dict(name="radam", learning_rate=1e-4, schedule="constant", warmup_steps=0, clip=0.0))
            c.update(dict(batch_size=batch_size, steps=steps, log_every=100, eval_every=6000, figures_every=30_000,
                          checkpoint_every=6000))
        return change

    def paper_imagenet32(c):
        # Of the official code: 8 blocks over earlier channels, 8 over rows above, 8 in the row, 1,536 units, 16 heads.
        c.data.update(dict(source="tfds:downsampled_imagenet/32x32", size=32, channels=3, levels=256,
                           test_split="validation"))
        c.model.update(dict(prior="axial", hidden=1536, heads=16, layers=8, inner=8, mlp_ratio=1, dropout=0.04,
                            one_channel=True))
        c.optim.update(dict(learning_rate=1e-4, schedule="constant", warmup_steps=5000, clip=1.0, average=0.99995))
        c.update(dict(batch_size=64, steps=200_000, dtype="bfloat16", log_every=100, eval_every=10_000,
                      figures_every=50_000, checkpoint_every=5000))

    def paper_bair(c):
        # 15 frames given the first. Sizes and optimizer of the official code's ImageNet 64; of video it has none.
        c.data.update(dict(source="tfds:bair_robot_pushing_small", x="image_aux1", frames=16, levels=256))
        c.model.update(dict(prior="axial", hidden=2048, heads=16, layers=8, inner=8, mlp_ratio=1, dropout=0.0,
                            one_channel=True, given=True, prefix=1))
        c.optim.update(dict(learning_rate=2e-4, schedule="constant", warmup_steps=5000, clip=1.0, average=0.99995))
        c.update(dict(batch_size=64, steps=200_000, dtype="bfloat16", log_every=100, eval_every=10_000,
                      figures_every=50_000, checkpoint_every=5000))

    def tiny(c):
        c.data.size = 6
        if c.data.source == "moving_digits":
            c.data.update(dict(frames=3, digit_size=3))
        c.model.update(dict(hidden=16, layers=2, heads=2, embed=8, components=3, iterations=3))

    return apply_variants(config, arg, dict(
        transformer=transformer("transformer"), linear=transformer("linear_transformer"), axial=transformer("axial"),
        row=transformer("row"), masked=transformer("masked"), conditional=conditional,
        logistic_mixture=logistic_mixture, colour=colour,
        paper_mnist_linear=linear_at_scale("tfds:mnist", 28, 1, 8, 10, 1_500_000),
        paper_cifar_linear=linear_at_scale("tfds:cifar10", 32, 3, 16, 4, 1_250_000),
        paper_imagenet32=paper_imagenet32, video=video, frame=frame, paper_bair=paper_bair, tiny=tiny))
