"""Deep dictionaries by majorisation and minimisation (Singhal and Majumdar 2018, arXiv 1912.10801).

    python experiments/run.py --config=configs/deep_dictionary.py

98 and 49 atoms on the 4,000 embedded digits at 14x14, tanh between the layers: the greedy fit, then 40 joint passes
over all of them. The curve `objective` is that of the training set; the figures `atoms_1` and `atoms_2` show what one
code of each layer makes.

Variants: `greedy` (no joint passes), `mm` (the default: proximal steps, each of which minimises a majoriser of the
objective), `inverse` (codes by the thresholded step on the innermost majoriser, the paper's), `linear` (the same
without tanh, where that step is exact), `paper` (MNIST, 392-196-98).
"""

from jaxae.systems.sparse import deep_dictionary
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "sparse.deep_dictionary"
    config.model = deep_dictionary.defaults()
    config.data.size = 14
    config.update(dict(steps=40, batch_size=200, log_every=1, eval_every=20, figures_every=20, checkpoint_every=20,
                       prepare_every=1, prepare_examples=0))
    config.evaluators = ("probe",)

    def greedy(c):
        c.prepare_every = 0

    def inverse(c):
        c.model.z_step = "inverse"

    def linear(c):
        c.model.update(dict(phi="linear", z_step="inverse"))

    def paper(c):
        # Sizes halve.
        c.data.update(dict(source="tfds:mnist", size=28))
        c.model.update(dict(sizes=(392, 196, 98), examples=60_000))
        c.update(dict(steps=200, batch_size=1000))

    def tiny(c):
        c.model.update(dict(sizes=(8, 4), examples=64, greedy_steps=3, inner=2, encode_steps=5))
        c.data.size = 8
        c.prepare_examples = 0
        c.evaluators = ()

    return apply_variants(config, arg, dict(greedy=greedy, mm=lambda c: None, inverse=inverse, linear=linear,
                                            paper=paper, tiny=tiny))
