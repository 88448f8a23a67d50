"""Sparse autoencoders: TopK with AuxK (Gao et al. 2024, arXiv 2406.04093) and its relatives.

    python experiments/run.py --config=configs/sae.py

Trains 512 atoms on the 4,000 embedded digits, 16 of them active; the figure `atoms` shows the most frequent ones.

Sparsifiers: `relu` (ReLU and an L1 penalty), `batch_topk` (Bussmann et al. 2024, arXiv 2412.06410; 'mutual choice' of
Ayonrinde 2024, arXiv 2411.02124), `feature_choice` (the same paper; `mutual_then_feature`: in the last 800 updates),
`gradient` (by the gradients of a later loss too, on planted data with them; Olmo et al. 2024, arXiv 2411.10397),
`jump_relu` (Lieberum et al. 2024, arXiv 2408.05147), `gated` (Rajamanoharan et al. 2024, arXiv 2404.16014), `prolu`
(Taggart 2024), `absolute` (Zhu et al. 2025, arXiv 2510.00404).

Others, which combine (`--config=configs/sae.py:batch_topk,planted`): `multi` (Multi-TopK), `matryoshka` (nested numbers
of active atoms, Zaigrajew et al. 2025, arXiv 2502.20578) and `prefix` (nested dictionaries, Bussmann et al. 2025, arXiv
2503.17547), `tied` (Cunningham et al. 2023, arXiv 2309.08600: ReLU and L1), `tilted` (Muhamed et al. 2024, arXiv
2411.00743), `zipf` (AuxK for atoms used less than a Zipf law has it, arXiv 2411.02124), `no_revival` (without AuxK),
`photographs` (grey crops), `patches` (whitened), `planted` (64 known atoms in 32 dimensions, 3 active), `pairs` (`kron`
on planted pairs); `pursuit` (matching pursuit as the encoder, Costa et al. 2025, arXiv 2506.03093), `k_sparse` (tied
and linear, k falling from 128; Makhzani and Frey 2013, arXiv 1312.5663), `kron` (latents of pairs of units, Kurochkin
et al. 2025, arXiv 2505.22255), `archetypal` (atoms near the convex hull of the data, Fel et al. 2025, arXiv
2502.12892), `bias_adaptation` (no penalty, biases that follow frequencies, Chen et al. 2025, arXiv 2506.14002).

Data with targets `y` make a transcoder (`--config.model.center=False`, and `--config.model.skip=True` for a linear map
beside it), an `x [n layers width]` with `--config.model.layers` a crosscoder.

`sharded` spreads the atoms over all devices (`--config.mesh.data=2`: the batch over two groups of them as well).

At the scale of the papers, on arrays of activations (`npz:PATH`, one array `x [n width]`): `paper` (GPT-2 small, 32,768
atoms), `paper_gemma` (2,304 to 16,384 atoms, JumpReLU), `paper_clip` (768 to 6,144 atoms, nested), `paper_kron` (1,536
to 32,768 atoms of 24,576 units), `paper_archetypal` (768 to 3,840 atoms of 32,000 points), `paper_bias_adaptation`
(1,536 to 65,536 atoms in ten groups), `paper_gradient` (768 to 24,576 atoms, on a store with gradients),
`paper_feature_choice` (768 to 32,768 atoms), `paper_pursuit` (768 to 19,200 atoms), `paper_tied` (512 to 1,024 atoms),
`paper_consistency` (768 to 16,384 atoms, three seeds), `paper_specialised` (2,304 to 16,384 atoms, tilted, from a
general dictionary; sizes are ours), `paper_seeds` (768 to 32,768 atoms) and, on MNIST, `paper_k_sparse` (1,000 atoms)
and `paper_mdl` (4,096 atoms).
"""

from jaxae.systems.sparse import dictionary
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "sparse.dictionary"
    config.model = dictionary.defaults()
    config.update(dict(steps=2000, batch_size=200, eval_every=500, figures_every=1000, checkpoint_every=500))
    config.model.update(dict(atoms=512, k=16, auxk=1 / 32, aux_atoms=64, dead_after=20_000))
    config.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50, average=0.999))

    def sparsifier(name, **changes):
        def change(c):
            c.model.update(dict(sparsifier=name) | changes)
        return change

    def model(**changes):
        return lambda c: c.model.update(changes)

    def tied(c):
        c.model.update(dict(encoder="tied", sparsifier="relu", l1=0.02, sparsity_warmup=200, auxk=0.0, center=False,
                            offset="zero", unit_norm=False))

    def k_sparse(c):
        c.model.update(dict(encoder="tied", rectify=False, center=False, unit_norm=False, auxk=0.0, k=25, k_start=128,
                            k_steps=c.steps // 2, k_test=50))

    def bias_adaptation(c):
        c.model.update(dict(encoder="tied", decoder="scaled", sparsifier="relu", bias="adapted", input="unit",
                            offset="mean", fixed_offset=True, error="sum", auxk=0.0, groups=4, target=0.2,
                            adapt_every=10, bias_rate=0.02))

    def kron(c):
        c.model.update(dict(encoder="kron", heads=32, bases=4, extensions=4))

    def gradient(c):
        c.data.update(dict(source="influence"))
        c.model.update(dict(sparsifier="gradient_topk", atoms=64, k=3, auxk=0.0))

    def photographs(c):
        c.data.update(dict(source="photographs", size=16, channels=1))

    def sharded(c):
        c.mesh.update(dict(data=1, tensor=-1))
        c.rules = (("encoder$", (None, "tensor")), ("decoder$", ("tensor", None)))

    def patches(c):
        # Whitened 8x8 crops of two photographs, on 32 principal components.
        c.data.update(dict(source="photographs", size=8, channels=1, whiten=32, num_train=20_000, num_test=4000))
        c.model.update(dict(k=8, aux_atoms=24, dead_after=10_000))

    def planted(c):
        c.data.update(dict(source="dictionary", num_train=50_000))
        c.model.update(dict(atoms=64, k=3, aux_atoms=16, dead_after=5000))
        c.update(dict(steps=3000, batch_size=512))

    def paper(c):
        # 64-token contexts of the residual stream, batches of 131,072 tokens, 40 billion in all.
        c.data.update(dict(source="npz:activations.npz", x="x"))
        c.model.update(dict(atoms=32_768, k=32, input="example", aux_atoms=256, dead_after=10_000_000))
        c.optim.update(dict(learning_rate=1e-4, schedule="constant", warmup_steps=0, eps=6.25e-10, average=0.999))
        c.update(dict(steps=300_000, batch_size=131_072, log_every=100, eval_every=10_000, figures_every=10_000,
                      checkpoint_every=10_000))

    def paper_gemma(c):
        # Widths of the residual stream of Gemma 2 2B; 4 billion tokens, no other remedy for dead atoms.
        paper(c)
        c.model.update(dict(atoms=16_384, sparsifier="jump_relu", l0=6e-4, threshold=0.001, bandwidth=0.001,
                            sparsity_warmup=10_000, center=False, offset="zero", input="none", error="sum", auxk=0.0))
        c.optim.update(dict(learning_rate=7e-5, schedule="constant", warmup_steps=1000, b1=0.0, eps=1e-8, average=0.0))
        c.update(dict(steps=1_000_000, batch_size=4096))

    def paper_clip(c):
        # ViT-L/14 embeddings of CC3M, 30 epochs; the rate falls in the last fifth.
        paper(c)
        c.model.update(dict(atoms=6144, sparsifier="relu", ks=(64, 128, 256, 512, 1024, 2048, 4096, 6144), auxk=0.0,
                            input="none"))
        c.optim.update(dict(learning_rate=1e-4, clip=1.0, average=0.0))
        c.update(dict(steps=21_000, batch_size=4096))

    def archetypal(c):
        # Inputs as they are, so that atoms and examples lie in one hull.
        c.model.update(dict(decoder="archetypal", unit_norm=False, candidates=1000, delta=1.0, center=False,
                            offset="zero"))

    def pairs(c):
        # The planted ANDs of a factorised encoder: 4 heads of 4 x 4 units, as many as the data have.
        kron(c)
        c.data.update(dict(source="planted_pairs", num_train=50_000))
        c.model.update(dict(atoms=64, heads=4, k=2, auxk=0.0))
        c.update(dict(steps=2500, batch_size=256))

    def paper_kron(c):
        # Qwen 2.5 1.5B, half of the network deep, 500 million tokens; a quarter of the encoder's weights is saved.
        paper(c)
        c.model.update(dict(encoder="kron", heads=4096, bases=2, extensions=4, k=50, input="none", auxk=1 / 32))
        c.optim.update(dict(learning_rate=8e-4, schedule="cosine", warmup_steps=1000, eps=1e-8, average=0.0))
        c.update(dict(steps=61_000, batch_size=8192))

    def paper_archetypal(c):
        # DINOv2 base, patch tokens of ImageNet, five atoms for each dimension, 95% of the codes zero.
        paper(c)
        archetypal(c)
        c.model.update(dict(atoms=3840, k=192, candidates=32_000, delta=0.01, input="none", auxk=0.0))
        c.optim.update(dict(learning_rate=5e-4, schedule="cosine", eps=1e-8, average=0.0))
        c.update(dict(steps=300_000, batch_size=8192, prepare_examples=1_000_000))

    def paper_bias_adaptation(c):
        # MLP outputs of Qwen 2.5 1.5B, 100 million tokens; targets from a half down to a thousandth.
        paper(c)
        bias_adaptation(c)
        c.model.update(dict(atoms=65_536, groups=10, target=0.5, adapt_every=50, bias_rate=0.01))
        c.optim.update(dict(learning_rate=1e-4, schedule="cosine", warmup_steps=500, eps=1e-8, average=0.0))
        c.update(dict(steps=12_200, batch_size=8192))

    def paper_gradient(c):
        # GPT-2 small, layer 7, with the gradients of the next token's cross-entropy (experiments/harvest.py).
        paper(c)
        c.data.update(dict(source="activations:gpt2_layer7", x=""))
        c.model.update(dict(atoms=24_576, sparsifier="gradient_topk"))

    def paper_specialised(c):
        # Gemma 2 2B on documents of a subdomain, from a general dictionary: set config.init_from to its workdir.
        paper(c)
        c.model.update(dict(atoms=16_384, sparsifier="relu", l1=1e-3, tilt=500.0, auxk=0.0, input="none"))
        c.optim.update(dict(learning_rate=5e-5, eps=1e-8, average=0.0))
        c.update(dict(steps=10_000, batch_size=4096))

    def paper_pursuit(c):
        # Tokens of a vision transformer, 25 atoms for each dimension.
        paper(c)
        c.model.update(dict(atoms=19_200, k=20, sparsifier="pursuit", encoder="none", input="none", offset="mean",
                            auxk=0.0, revive=0.01, dead_after=1_000_000))
        c.optim.update(dict(learning_rate=5e-4, schedule="cosine", b1=0.5, b2=0.9375, eps=1e-8, clip=1.0, average=0.0))
        c.update(dict(steps=100_000, batch_size=4096))

    def paper_k_sparse(c):
        # MNIST, 1,000 hidden units.
        k_sparse(c)
        c.data.update(dict(source="tfds:mnist", size=28))
        c.model.update(dict(atoms=1000, k_start=100, k_steps=150_000))
        c.optim.update(dict(name="sgd", b1=0.9, learning_rate=0.1, average=0.0))
        c.update(dict(steps=300_000, batch_size=100))

    def paper_tied(c):
        # Pythia 70M, residual stream; the paper's error is a mean over the 512 coordinates.
        paper(c)
        tied(c)
        c.model.update(dict(atoms=1024, error="sum", l1=8.6e-4 * 512, input="none"))
        c.optim.update(dict(learning_rate=1e-3, eps=1e-8, average=0.0))
        c.update(dict(steps=24_000, batch_size=2048))

    def paper_consistency(c):
        # Pythia 160M, layer 8, three seeds; the paper's fall of the rate in the last fifth is not there.
        paper(c)
        c.model.update(dict(atoms=16_384, k=80, auxk=0.0, input="none"))
        c.optim.update(dict(learning_rate=3e-4, warmup_steps=1000, eps=1e-8, average=0.0))
        c.update(dict(steps=244_000, batch_size=2048, ensemble=3))

    def paper_seeds(c):
        # Pythia 160M, layer 6, 8 billion tokens; batches are our choice.
        paper(c)
        c.model.update(dict(auxk=0.0, input="none"))
        c.optim.update(dict(learning_rate=2e-4 / 2**0.5, eps=1e-8, average=0.0))
        c.update(dict(steps=1_000_000, batch_size=8192))

    def paper_mdl(c):
        # MNIST pixels; one cell of the paper's grid of sizes.
        c.data.update(dict(source="tfds:mnist", x="image", label="label", size=28))
        c.model.update(dict(atoms=4096, sparsifier="batch_topk"))

    def paper_feature_choice(c):
        paper(c)
        c.model.update(dict(sparsifier="feature_choice", mutual_steps=c.steps // 2))

    def tiny(c):
        c.model.update(dict(atoms=24, k=3, aux_atoms=4, dead_after=50, ks=(2, 4, 24) if c.model.ks else ()))
        if c.model.encoder == "kron":
            c.model.update(dict(heads=2, bases=3, extensions=4))
        c.model.update(dict(candidates=min(c.model.candidates, 32), k_start=min(c.model.k_start, 12),
                            k_test=min(c.model.k_test, 6)))
        planted = c.data.source in ("dictionary", "planted_pairs", "influence")
        c.data.update(dict(num_train=500) if planted else dict(size=8))

    l1 = dict(l1=0.02, sparsity_warmup=200)
    nested = dict(ks=(4, 8, 16, 32, 64, 512), auxk=0.0)
    return apply_variants(config, arg, dict(
        relu=sparsifier("relu", **l1), gated=sparsifier("gated", **l1), prolu=sparsifier("prolu", **l1),
        batch_topk=sparsifier("batch_topk"), feature_choice=sparsifier("feature_choice"),
        jump_relu=sparsifier("jump_relu", l0=0.002, threshold=0.1, bandwidth=0.2, sparsity_warmup=200),
        absolute=sparsifier("absolute_topk"), multi=model(multi_k=4), matryoshka=model(**nested),
        prefix=model(ks=(32, 64, 128, 256, 512), nest="prefix", auxk=0.0), tied=tied, tilted=model(tilt=2.0),
        zipf=model(aux="zipf"), no_revival=model(auxk=0.0), k_sparse=k_sparse, bias_adaptation=bias_adaptation,
        pursuit=model(sparsifier="pursuit", encoder="none", auxk=0.0, revive=0.01, offset="mean"), gradient=gradient,
        paper_gradient=paper_gradient, paper_feature_choice=paper_feature_choice,
        paper_tied=paper_tied, paper_specialised=paper_specialised,
        paper_consistency=paper_consistency, paper_seeds=paper_seeds, paper_mdl=paper_mdl, patches=patches,
        paper_pursuit=paper_pursuit, paper_k_sparse=paper_k_sparse,
        mutual_then_feature=sparsifier("feature_choice", mutual_steps=1200), kron=kron, archetypal=archetypal,
        pairs=pairs, paper_kron=paper_kron, paper_archetypal=paper_archetypal,
        paper_bias_adaptation=paper_bias_adaptation, photographs=photographs, planted=planted, sharded=sharded,
        paper=paper, paper_gemma=paper_gemma, paper_clip=paper_clip, tiny=tiny))
