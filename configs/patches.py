"""Autoregressive image generation without codes: patches of pixels as tokens, each drawn by a diffusion head.

    python experiments/run.py --config=configs/patches.py

MAR (Li, Tian, Li, Deng and He 2024, arXiv 2406.11838) on the 4,000 embedded digits, 28x28 as 49 patches of 4x4 pixels,
classes given: a column of the figure `samples` for each. At the paper's scale it is on an autoencoder's latents:
configs/prior.py:paper_mar.

Variants: `causal` (in raster order) and `causal_random`, with a cache; `unconditional`; `epsilon` (the head predicts
the noise, as in the paper, which wants longer training); `paper_masks` (the paper's shares of hidden tokens, 0.7 and
more).
"""

from jaxae.systems.autoregressive import patches
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "autoregressive.patches"
    config.model = patches.defaults()
    config.update(dict(steps=2000, batch_size=32, eval_every=500, figures_every=1000, checkpoint_every=500))
    config.prepare_examples = 0
    config.model.update(dict(conditional=True, classes=10, guidance=1.5, hidden=64, layers=4, head_hidden=96,
                             head_layers=2, draws=2, least_masked=0.0, mask_std=1.0, iterations=24))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50, clip=3.0, average=0.995))

    def causal(order):
        def change(c):
            c.model.update(dict(prior="causal_continuous", order=order))
        return change

    def unconditional(c):
        c.model.update(dict(conditional=False, guidance=1.0))

    def epsilon(c):
        c.model.predicts = "epsilon"

    def paper_masks(c):
        c.model.update(dict(least_masked=0.7, mask_std=0.25))

    def tiny(c):
        c.model.update(dict(hidden=16, layers=2, heads=2, head_hidden=16, head_layers=1, iterations=3, steps=3))

    return apply_variants(config, arg, dict(
        causal=causal("raster"), causal_random=causal("random"), unconditional=unconditional, epsilon=epsilon,
        paper_masks=paper_masks, tiny=tiny))
