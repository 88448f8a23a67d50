"""A VQ-VAE of waveforms, as Jukebox's (Dhariwal et al. 2020, arXiv 2005.00341), for separating drums from a bass.

    python experiments/run.py --config=configs/audio.py
    python experiments/run.py --config=configs/prior.py:sounds --config.autoencoder=runs/audio --workdir=runs/sounds
    python experiments/separate.py --workdir=runs/sounds

Trains on 2,000 synthetic clips of a second, half of them drums and half bass (jaxae/data/drums_and_bass.py): 4,096
samples -> 64 codes. The figure `reconstructions` has the spectra of clips over those of their reconstructions, and
`reconstructions_waveforms` the curves. The second command fits a prior to the codes given which of the two a clip is,
the third separates sums of both (Postolache et al. 2023, arXiv 2301.08562).

Variants: `squares` (mean squared error alone), and the quantizers of configs/vq.py by the same keys. `paper` is the
top level of Jukebox, 128 samples to a code of 2,048, for clips of 1,024 codes at 44,100 samples a second; its data are
WAV files of yours in two folders, drums and bass, such as those of Slakh2100: `--config.data.source=wav:FOLDER`.
"""

from jaxae.systems.discrete import vq_vae
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "discrete.vq_vae"
    config.model = vq_vae.defaults()
    config.data.update(dict(source="drums_and_bass"))
    config.update(dict(steps=600, batch_size=16, eval_every=150, figures_every=300, checkpoint_every=150))
    config.model.update(dict(network="waveform", strides=((8, 8),), hidden=32, z_channels=8, blocks=2, codes=256,
                             width=32, sample_weight=40.0, spectral=0.01,
                             resolutions=((512, 128, 384), (128, 32, 96))))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))
    config.evaluators = ("waveform_quality",)

    def squares(c):
        c.model.update(dict(spectral=0.0, largest=0.0))

    def paper(c):
        # The weights stand for Jukebox's divisions, by the variance of the data and the mean norm of their spectra: of
        # sounds of this length as loud as the synthetic ones. Clips of 1,024 codes are what was separated; Jukebox
        # itself trained on three times as long ones.
        c.data.update(dict(source="wav:slakh", length=131_072))
        c.model.update(dict(strides=((2, 2, 2), (2, 2), (2, 2)), hidden=32, z_channels=64, blocks=4, dilation_growth=3,
                            codes=2048, width=64, decay=0.99, beta=0.02, start="data", revive=1.0, sample_weight=40.0,
                            largest=0.8, largest_samples=2048, spectral=4e-4, resolutions=PAPER))
        c.optim.update(dict(learning_rate=3e-4, schedule="constant", warmup_steps=100, clip=1.0))
        c.update(dict(steps=384_618, batch_size=256, log_every=100, eval_every=5000, figures_every=5000,
                      checkpoint_every=5000))

    def tiny(c):
        c.data.update(dict(length=512, num_train=64, num_test=16))
        c.model.update(dict(strides=((4, 2),), hidden=8, z_channels=8, blocks=1, codes=16, width=8,
                            largest_samples=32, resolutions=((64, 16, 48), (32, 8, 32))))

    return apply_variants(config, arg, dict(squares=squares, paper=paper, tiny=tiny))


PAPER = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))  # samples of a transform, of a hop, of a window
