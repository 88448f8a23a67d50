"""Digits read from k-sparse codes, fine-tuned (Makhzani and Frey 2013, arXiv 1312.5663).

    python experiments/run.py --config=configs/sae.py:k_sparse --workdir=runs/k_sparse
    python experiments/run.py --config=configs/fine_tuning.py --config.init_from=runs/k_sparse

Both at the same sizes; without the first the dictionary starts at random. Variants: `frozen` (the read-out alone
learns), `paper` (MNIST, 1,000 atoms).
"""

from jaxae.systems.supervised import sparse_codes
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "supervised.sparse_codes"
    config.model = sparse_codes.defaults()
    config.model.update(dict(atoms=512, encoder="tied", rectify=False, center=False, unit_norm=False, k=25, k_test=50))
    config.update(dict(steps=1500, batch_size=100, eval_every=500, figures_every=0, checkpoint_every=500))
    config.init_parts = ("decoder", "bias", "offset")
    config.optim.update(dict(learning_rate=1e-3, schedule="cosine", average=0.99))

    def frozen(c):
        c.model.frozen = True

    def paper(c):
        c.data.update(dict(source="tfds:mnist", size=28))
        c.model.update(dict(atoms=1000))
        c.optim.update(dict(name="sgd", b1=0.9, learning_rate=0.1, schedule="constant", average=0.0))
        c.update(dict(steps=300_000))

    def tiny(c):
        c.model.update(dict(atoms=24, k=3, k_test=6))
        c.data.size = 8

    return apply_variants(config, arg, dict(frozen=frozen, paper=paper, tiny=tiny))
