"""Variational autoencoders of sentences, LSTM to LSTM: AutoGen (Mansbridge et al. 2018, arXiv 1806.04480), its
baselines, and a decoder that cannot ignore its latent.

    python experiments/run.py --config=configs/sentences.py

Trains AutoGen with m = 1 on 1,750 sentences of a small grammar, 32 words, 8 to 12 tokens. Figures are pages of
reconstructions (a sentence over what greedy decoding makes of its latent), samples and interpolations; `exact` is the
share of test sentences that come back whole from the posterior's mean.

Variants: `autogen` (the default), `autogen2` (m = 2), `vae` (m = 0), `anneal` (a VAE with the KL's weight from 0 to 1)
and `word_dropout` (one that sees 70% of the words before; both of Bowman et al. 2016, arXiv 1511.06349),
`inverse_lipschitz` (IL-LIDSVAE, Kinoshita et al. 2023, arXiv 2304.12770), `paper` (AutoGen's scale: 20,000 words,
sentences of at most 30; expects tokens of BookCorpus in an npz, 1 at the end of a sentence and 0 after it).
"""

from jaxae.data.sentences import VOCABULARY
from jaxae.systems.gaussian import autogen as autogen_system
from jaxae.systems.gaussian import inverse_lipschitz as inverse_lipschitz_system
from jaxae.systems.gaussian import vae as vae_system
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.data.source = "sentences"
    config.update(dict(steps=4000, batch_size=100, log_every=100, eval_every=1000, figures_every=2000,
                       checkpoint_every=1000))
    config.optim.update(dict(learning_rate=4e-3, schedule="cosine"))

    def system(c, module, **changes):
        c.system, c.model = module.__name__.removeprefix("jaxae.systems."), module.defaults()
        c.model.update(dict(network="lstm", vocabulary=len(VOCABULARY), latent=32) | changes)

    def autogen(c):
        system(c, autogen_system)

    def autogen2(c):
        system(c, autogen_system, m=2.0)

    def vae(c):
        system(c, vae_system)

    def anneal(c):
        system(c, vae_system, anneal_steps=2000, anneal="sigmoid")

    def word_dropout(c):
        system(c, vae_system, word_dropout=0.3)

    def inverse_lipschitz(c):
        system(c, inverse_lipschitz_system, latent=8, inverse_lipschitz=0.5, convex=(64, 64))

    def paper(c):
        system(c, autogen_system, vocabulary=20_000, latent=50, lstm_units=500, lstm_embedding=300)
        c.data.source = "npz:bookcorpus.npz"
        c.update(dict(steps=1_000_000, batch_size=200, log_every=1000, eval_every=20_000, figures_every=20_000,
                      checkpoint_every=20_000))
        c.optim.learning_rate = 1e-3

    def tiny(c):
        c.model.update(dict(lstm_units=8, lstm_embedding=8, latent=4))
        if "convex" in c.model:
            c.model.convex = (8, 8)

    autogen(config)
    return apply_variants(config, arg, dict(autogen=autogen, autogen2=autogen2, vae=vae, anneal=anneal,
                                            word_dropout=word_dropout, inverse_lipschitz=inverse_lipschitz,
                                            paper=paper, tiny=tiny))
