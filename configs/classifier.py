"""The classifier whose hidden layer is the feature space of the Frechet and kernel distances.

    python experiments/run.py --config=configs/classifier.py
    python experiments/export_features.py --workdir=runs/classifier

Trains on the 4,000 embedded digits with random shifts; the second command writes the weights that
`jaxae.metrics.digit_features` loads, with the test accuracy beside them.
"""

from jaxae.systems.supervised import classifier
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants; there are none but `tiny`."""
    config = base()
    config.system = "supervised.classifier"
    config.model = classifier.defaults()
    config.data.augment = ("shift",)
    config.update(dict(steps=1500, batch_size=100, eval_every=500, figures_every=0, checkpoint_every=500))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", average=0.99))

    def tiny(c):
        c.model.update(dict(channels=(8, 8), features=8))

    return apply_variants(config, arg, dict(tiny=tiny))
