"""Separator, paraphrasing with meaning and form apart (Hosking and Lapata 2021, arXiv 2105.15053), and its baselines.

    python experiments/run.py --config=configs/separator.py

Trains on 6,000 triples of a planted language, 40 meanings in 8 templates, and measures on sentences whose meaning
training never saw in their template.

Variants: `separator` (the default), `hard` (the nearest code in training too), `published` (norms after the sums,
sinusoids, an encoder that sees earlier words alone, and four steps of 64 for each update of the code predictor, as the
published code has them), `autoencoder` and `vae` (one latent, no triples: they copy), `beam1` (greedy).

At the scale of the paper: `paper` (Paralex) and `paper_qqp`, 5 layers of 768, 256 codes in 4 heads, beam 4, a predictor
of batch 1,024. The data are yours: clusters of questions as Paralex and QQP are published (`jaxae.data.questions`),
BERT's vocabulary as a text file and its word vectors as an npy. Templates come from a list of closed-class words there;
with a shallow parser's make the triples by `question_triples` and give them as an npz.
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

    def published(c):
        c.model.update(dict(transformer_norm="post", transformer_positions="sinusoidal", transformer_directional=True,
                            predictor_batch=4 * c.batch_size))
        c.optim.learning_rate = 1e-3

    def paper(c):
        c.data.update(dict(source="paralex:paralex.tsv", vocabulary="bert-base-uncased.txt", length=50))
        c.batch_size = 64
        published(c)
        # 30,000 updates of 1,024.
        c.model.update(dict(vocabulary=30_522, transformer_width=768, transformer_layers=5, transformer_hidden=2048,
                            codes=256, temperature=1.0, revive=0.0, embeddings="bert-base-uncased.npy",
                            anneal_start=10_000, anneal_steps=10_000, predictor_hidden=3072, predictor_rate=5e-5,
                            predictor_batch=1024, predictor_steps=30_000 * 16))
        # 50 passes over about 5 triples of each of 220,000 clusters, and the predictor.
        c.update(dict(steps=860_000 + 480_000, log_every=1000, eval_every=20_000, figures_every=20_000,
                      checkpoint_every=20_000))
        # 0.005 min(t^-1/2, t 10000^-3/2) peaks at 5e-5.
        c.optim.update(dict(learning_rate=5e-5, schedule="inverse_sqrt", warmup_steps=10_000))

    def paper_qqp(c):
        paper(c)
        c.data.source = "qqp:quora_duplicate_questions.tsv"
        c.model.predictor_rate = 1e-4
        c.steps = 220_000 + 480_000  # of about 56,000 clusters

    def tiny(c):
        c.model.predictor_batch = 16 if c.model.predictor_batch else 0
        c.model.update(dict(transformer_width=16, transformer_layers=1, transformer_hidden=16, predictor_hidden=16,
                            predictor_steps=1, anneal_start=0, anneal_steps=2, codes=4, beam=2))
        if c.model.form_heads:
            c.model.heads = 2

    return apply_variants(config, arg, dict(separator=separator, hard=hard, autoencoder=autoencoder, vae=vae,
                                            beam1=beam1, published=published, paper=paper, paper_qqp=paper_qqp,
                                            tiny=tiny))
