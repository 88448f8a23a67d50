"""Separator, paraphrasing with meaning and form apart (Hosking and Lapata 2021, arXiv 2105.15053), and its baselines.

    python experiments/run.py --config=configs/separator.py

Trains on 6,000 triples of a planted language, 40 meanings in 8 templates, and measures on sentences whose meaning
training never saw in their template.

Variants: `separator` (the default), `hard` (the nearest code in training too), `autoencoder` and `vae` (one latent, no
triples: they copy), `beam1` (greedy), `paper` (5 layers of 768, 256 codes in 4 heads, beam 4; expects tokens of Paralex
as triples `x`, `paraphrase`, `exemplar` in an npz, as `jaxae.data.paraphrases.make_triples` chooses them, and BERT's
word vectors in an npy).
"""

from jaxae.data.paraphrases import VOCABULARY
from jaxae.systems.discrete import separator as separator_system
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.data.source = "paraphrases"
    config.system, config.model = "discrete.separator", separator_system.defaults()
    # A head of the form has 4 dimensions here and 48 in the paper: distances, and so the temperature, are smaller.
    config.model.update(dict(vocabulary=len(VOCABULARY), codes=16, temperature=0.1, transformer_width=64,
                             transformer_hidden=128, anneal_start=500, anneal_steps=500, predictor_hidden=256,
                             predictor_steps=400))
    config.update(dict(steps=2400, batch_size=64, log_every=100, eval_every=500, figures_every=1000,
                       checkpoint_every=500))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=100, b2=0.98, clip=5.0))

    def separator(c):
        c.model.update(dict(triples=True, form_heads=2, variational=True))

    def hard(c):
        c.model.update(dict(soft=False, temperature=0.0))

    def autoencoder(c):
        c.model.update(dict(triples=False, form_heads=0, variational=False))

    def vae(c):
        c.model.update(dict(triples=False, form_heads=0, variational=True))

    def beam1(c):
        c.model.beam = 1

    def paper(c):
        c.data.source = "npz:paralex.npz"
        c.model.update(dict(vocabulary=30_522, transformer_width=768, transformer_layers=5, transformer_hidden=2048,
                            codes=256, temperature=1.0, revive=0.0, embeddings="bert-base-uncased.npy",
                            anneal_start=10_000, anneal_steps=10_000, predictor_hidden=3072, predictor_rate=5e-5,
                            predictor_steps=30_000))
        # 50 passes, over a number of triples that is our estimate (5 of each of 220,000 clusters), and the predictor.
        c.update(dict(steps=890_000, log_every=1000, eval_every=20_000, figures_every=20_000, checkpoint_every=20_000))
        # 0.005 min(t^-1/2, t 10000^-3/2) peaks at 5e-5.
        c.optim.update(dict(learning_rate=5e-5, schedule="inverse_sqrt", warmup_steps=10_000))

    def tiny(c):
        c.model.update(dict(transformer_width=16, transformer_layers=1, transformer_hidden=16, predictor_hidden=16,
                            predictor_steps=1, anneal_start=0, anneal_steps=2, codes=4, beam=2))
        if c.model.form_heads:
            c.model.heads = 2

    return apply_variants(config, arg, dict(separator=separator, hard=hard, autoencoder=autoencoder, vae=vae,
                                            beam1=beam1, paper=paper, tiny=tiny))
