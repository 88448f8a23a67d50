"""A prior over the latents of a trained autoencoder.

    python experiments/run.py --config=configs/prior.py --config.autoencoder=runs/vq

Code maps get an autoregressive prior (gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328), vectors a
Gaussian mixture by EM. The figure `samples` shows decoded samples.

Variants for codes: `transformer` (causal, with a cache), `linear` (Katharopoulos et al. 2020, arXiv 2006.16236),
`axial` (Ho et al. 2019, arXiv 1912.12180), `masked` (MaskGIT, Chang et al. 2022, arXiv 2202.04200), `coarse` (Guo et
al. 2025, arXiv 2503.16194), `next_scale` (Tian et al. 2024, arXiv 2404.02905; for configs/vq.py:multi_scale).

`llama` after `transformer` or `coarse` takes rotary positions and gated MLPs; `paper_coarse` is Guo et al.'s smallest
scale, for a run with 16,384 codes.

`semantic` (for configs/semantic_vq.py) is a transformer over the codes of an image given those of its semantic map
(Alaniz et al. 2022, arXiv 2209.02536), which also draws from the 100 likeliest codes; `paper_semantic` at that scale.
`transformer,conditional` is also what experiments/separate.py separates mixtures by (Postolache et al. 2023, arXiv
2301.08562), `sounds` that for configs/audio.py. At that paper's scale: `paper_separation` for a run of
configs/vq.py:paper_separation, `paper_separation_celeba` and `paper_separation_imagenet` for those of the same names in
configs/vqgan.py, `paper_sounds` for configs/audio.py:paper.

For vectors: `mixture` (EM needs no steps), `flow` (RealNVP), `autoregressive` (a masked network, arXiv 1502.03509),
`diffusion` (Ho et al. 2020, arXiv 2006.11239), `flow_matching` (Lipman et al. 2022, arXiv 2210.02747).

For maps of vectors (configs/vae.py:map), tokens with a diffusion head (Li et al. 2024, arXiv 2406.11838): `mar`
(masked, in random order), `causal_continuous` (in raster order; with `--config.model.order=random` in that);
`paper_mar`, `paper_mar_large` and `paper_mar_huge` at the paper's scale, for 16x16 latents of 16 channels, classes
given. For patches of images in the place of latents: configs/patches.py.

`conditional` after any but mixture and flow gives them classes (one for each column of the samples), with guidance
where they have it: `--config=configs/prior.py:transformer,conditional`.
"""

from jaxae.systems.latent import prior
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "latent.prior"
    config.model = prior.defaults()
    config.update(dict(steps=600, batch_size=100, eval_every=200, figures_every=300, checkpoint_every=200))
    config.prepare_examples = 0
    config.model.update(dict(hidden=48, layers=4, dropout=0.2))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))

    def conditional(c):
        c.model.conditional = True
        c.model.guidance = 1.5 if c.model.prior not in ("auto", "autoregressive") else 1.0

    def transformer(name, **changes):
        """On codes: more width and a lower rate than convolutions want."""
        def change(c):
            c.model.update(dict(prior=name, hidden=128, layers=4, heads=4, dropout=0.1) | changes)
            c.optim.update(dict(learning_rate=1e-3))
        return change

    def semantic(c):
        transformer("transformer", given=True, top_k=100, hidden=64, dropout=0.0)(c)
        c.update(dict(batch_size=32, steps=500))

    def llama(c):
        c.model.style = "llama"

    def paper_coarse(c):
        # LlamaGen-B's blocks in both stages, of its tokenizer (16,384 codes, 16x16 or 24x24) in 512 clusters.
        transformer("coarse_to_fine", style="llama", conditional=True, clusters=512, hidden=768, layers=12, heads=12)(c)
        c.optim.update(dict(name="adamw", learning_rate=1e-4, schedule="constant", warmup_steps=0, b2=0.95,
                            weight_decay=0.05, clip=1.0))
        c.update(dict(steps=1_500_000, batch_size=256, dtype="bfloat16", log_every=100, eval_every=25_000,
                      figures_every=25_000, checkpoint_every=5000))

    def paper_semantic(c):
        # 24 layers of 16 heads and width 1,024, as in VQGAN's transformers; the paper's own sizes are not certain.
        transformer("transformer", given=True, top_k=100, hidden=1024, layers=24, heads=16, dropout=0.0)(c)
        c.optim.update(dict(learning_rate=4.5e-6 * 16, schedule="constant", warmup_steps=0, b2=0.95, weight_decay=0.01,
                            name="adamw"))
        c.update(dict(batch_size=16, steps=300_000, log_every=100, eval_every=10_000, figures_every=10_000,
                      checkpoint_every=10_000))

    def paper_separation(c):
        # 500 epochs of MNIST; the start token is the class.
        transformer("transformer", conditional=True, label_dropout=0.0, layers=3, heads=2)(c)
        c.optim.update(dict(learning_rate=2e-4, schedule="constant", warmup_steps=0))
        c.update(dict(batch_size=128, steps=234_000, log_every=100, eval_every=4680, figures_every=4680,
                      checkpoint_every=4680))

    def sounds(c):
        transformer("transformer", conditional=True, label_dropout=0.0, layers=3)(c)
        c.update(dict(batch_size=50, steps=800))

    def paper_separation_taming(hidden, layers, heads, **model):
        """The published transformers on VQGAN's codes, trained as the others of that code."""
        def change(c):
            transformer("transformer", hidden=hidden, layers=layers, heads=heads, dropout=0.0, **model)(c)
            c.optim.update(dict(name="adamw", learning_rate=4.5e-6 * 16, schedule="constant", warmup_steps=0, b2=0.95,
                                weight_decay=0.01))
            c.update(dict(batch_size=16, steps=1_000_000, log_every=100, eval_every=10_000, figures_every=10_000,
                          checkpoint_every=10_000))
        return change

    def paper_sounds(c):
        # 48 layers of width 1,024, one head and MLPs as wide as that. Jukebox's attention is sparse and a quarter as
        # wide; one network serves both instruments here, which start it by a token of their own, two there.
        transformer("transformer", conditional=True, label_dropout=0.0, hidden=1024, layers=48, heads=1, mlp_ratio=1,
                    dropout=0.0)(c)
        c.optim.update(dict(name="adamw", learning_rate=3e-4, schedule="constant", warmup_steps=100, clip=1.0))
        c.update(dict(batch_size=16, steps=300_000, dtype="bfloat16", log_every=100, eval_every=10_000,
                      figures_every=10_000, checkpoint_every=10_000))

    def denoising(name):
        def change(c):
            c.model.update(dict(prior=name, hidden=256, layers=3, dropout=0.0))
            c.steps = 3000
            c.optim.update(dict(learning_rate=1e-3, average=0.999))
        return change

    def tokens(name, order):
        """49 tokens are few: training also hides small shares of them."""
        def change(c):
            c.model.update(dict(prior=name, order=order, hidden=64, layers=4, dropout=0.0, head_hidden=96,
                                head_layers=2, draws=2, least_masked=0.0, mask_std=1.0, iterations=24))
            c.update(dict(steps=2000, batch_size=32, eval_every=500, figures_every=1000, checkpoint_every=500))
            c.optim.update(dict(clip=3.0, average=0.995))
        return change

    def paper_mar(hidden, layers, heads, head, guidance):
        """ImageNet's 1.28 million images for 800 epochs, of which the rate rises in the first 100."""
        def change(c):
            c.model.update(dict(prior="masked_continuous", conditional=True, hidden=hidden, layers=layers, heads=heads,
                                buffer=64, dropout=0.1, head_hidden=head[0], head_layers=head[1], predicts="epsilon",
                                guidance=guidance, iterations=256, steps=100))
            c.optim.update(dict(name="adamw", learning_rate=8e-4, schedule="constant", warmup_steps=62_500, b2=0.95,
                                weight_decay=0.02, clip=3.0, average=0.9999))
            c.update(dict(steps=500_000, batch_size=2048, dtype="bfloat16", log_every=100, eval_every=25_000,
                          figures_every=25_000, checkpoint_every=5000))
        return change

    def mixture(c):
        c.model.prior = "gaussian_mixture"
        c.steps = 1

    def flow(c):
        c.model.update(dict(prior="flow", hidden=64, layers=6))
        c.steps = 1500

    def autoregressive(c):
        c.model.update(dict(prior="autoregressive", hidden=128, dropout=0.0))
        c.steps = 1500

    def tiny(c):
        c.model.update(dict(hidden=16, layers=2, heads=2, components=2, clusters=4, iterations=3, steps=3,
                            head_hidden=16, head_layers=1))

    return apply_variants(config, arg, dict(
        transformer=transformer("transformer"), linear=transformer("linear_transformer"), axial=transformer("axial"),
        masked=transformer("masked", iterations=16), coarse=transformer("coarse_to_fine"),
        next_scale=transformer("next_scale"),
        diffusion=denoising("diffusion"), flow_matching=denoising("flow_matching"), mixture=mixture, flow=flow,
        autoregressive=autoregressive, conditional=conditional, semantic=semantic,
        mar=tokens("masked_continuous", "random"), causal_continuous=tokens("causal_continuous", "raster"),
        paper_mar=paper_mar(768, 24, 12, (1024, 6), 2.9), paper_mar_large=paper_mar(1024, 32, 16, (1280, 8), 3.0),
        paper_mar_huge=paper_mar(1280, 40, 16, (1536, 12), 3.2),
        llama=llama, paper_coarse=paper_coarse, paper_semantic=paper_semantic, paper_separation=paper_separation,
        sounds=sounds, paper_sounds=paper_sounds, paper_separation_celeba=paper_separation_taming(1664, 24, 16),
        paper_separation_imagenet=paper_separation_taming(1536, 48, 24, conditional=True, label_dropout=0.0),
        tiny=tiny))
