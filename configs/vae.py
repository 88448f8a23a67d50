"""VAE (Kingma and Welling 2013, arXiv 1312.6114) and its relatives with other objectives.

    python experiments/run.py --config=configs/vae.py

Trains on the 4,000 embedded digits, binarised anew in every epoch.

Variants: `conv` (convolutional networks), `gaussian`, `logistic` (likelihoods for grey values), `beta4`
(beta-VAE), `pixelcnn` (autoregressive decoder on 14x14 binary digits), `mnist_conv` (the 128-256-512-1024 network
that benchmarks use), `one_layer` (the 1-layer model of Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519),
`full` (full covariance), `mixture` (of Gaussians, as posterior), `planar` and `iaf` (flows: arXiv 1505.05770,
1606.04934), `categorical` (latents by Gumbel-softmax: arXiv 1611.01144), `vampprior` (Tomczak and Welling 2018,
arXiv 1705.07120), `clusters` (a learned mixture as prior: Jiang et al. 2017, arXiv 1611.05148), `map` (a map as latent,
for priors on latents: Rombach et al. 2021, arXiv 2112.10752; 27.3 dB after 1,500 steps; its own samples, of N(0, I),
are nothing to look at, since the weight of the KL is small).

Other objectives: `capacity` (Burgess et al. 2018, arXiv 1804.03599), `info`, `mmd` and `stein` (Zhao et al. 2017, arXiv
1706.02262), `autogen` (Mansbridge et al. 2018, arXiv 1806.04480), `joint` (Dupont 2018, arXiv 1804.00104), `unscented`
(Janjos et al. 2023, arXiv 2306.05256), `inverse_lipschitz` and `lipschitz_clusters` (with a learned mixture as prior;
Kinoshita et al. 2023, arXiv 2304.12770), `population` and `patchgan` (Rivera 2023, arXiv 2309.13160), `generated` (Chou
and Hathi 2019, arXiv 1904.10937), `beta_tc` (Chen et al. 2018, arXiv 1802.04942), `factor` (Kim and Mnih 2018, arXiv
1802.05983), `dip` (Kumar et al. 2018, arXiv 1711.00848), `spherical` (Davidson et al. 2018, arXiv 1804.00891), `rae`
and `rae_l2` (Ghosh et al. 2020, arXiv 1903.12436). `population_paper`, `unscented_paper`, `info_paper` and
`generated_paper` are those at the scale of their papers.
"""

import importlib

from jaxae.systems.gaussian import vae
from jaxae.train.config import apply_variants, base


def get_config(arg: str = ""):
    """The config of the comma-separated variants."""
    config = base()
    config.system = "gaussian.vae"
    config.model = vae.defaults()
    config.data.binarize = "dynamic"
    config.update(dict(steps=4000, batch_size=100, log_every=100, eval_every=1000, figures_every=2000,
                       checkpoint_every=1000))
    config.evaluators = ("image_quality", "nll")

    def conv(c):
        c.model.update(dict(network="conv", channels=(32, 64), blocks=1, hidden=32))
        c.update(dict(steps=1500))

    def gaussian(c):
        c.data.binarize = "none"
        c.model.update(dict(likelihood="gaussian", scale=0.2))

    def logistic(c):
        c.data.binarize = "none"
        c.model.update(dict(likelihood="discretized_logistic"))

    def beta4(c):
        c.model.beta = 4.0

    def pixelcnn(c):
        c.data.update(dict(size=14, binarize="static"))
        c.model.update(dict(network="conv", channels=(32,), blocks=1, decoder="pixelcnn", pixelcnn_layers=3))
        c.steps = 1500
        c.evaluators = ("nll",)

    def mnist_conv(c):
        c.model.update(dict(network="mnist_conv"))
        c.update(dict(steps=400))

    def one_layer(c):
        c.model.update(dict(features=(200, 200), latent=50, activation="tanh"))
        c.optim.update(dict(eps=1e-4))
        c.batch_size = 20

    def vampprior(c):
        c.model.prior = "vampprior"

    def clusters(c):
        c.model.prior = "gaussian_mixture"

    def posterior(name):
        def change(c):
            c.model.posterior = name
            if name == "categorical":
                c.model.categories = (10,) * 8
                c.evaluators = ("image_quality",)  # relaxed draws have no density
        return change

    def other(name, **changes):
        """The system of that name, with the networks of this config."""
        def change(c):
            module = importlib.import_module(f"jaxae.systems.gaussian.{name}")
            c.system, c.model = f"gaussian.{name}", module.defaults()
            c.model.update(changes)
            if name in ("joint", "unscented", "population", "regularized", "map_vae"):
                c.evaluators = ("image_quality",)  # no density of z, or one that nothing was trained on
        return change

    def latent_map(c):
        other("map_vae", channels=(32, 64), blocks=1)(c)
        c.data.binarize = "none"
        c.optim.update(dict(learning_rate=2e-3, schedule="cosine", warmup_steps=50))
        c.steps = 1500

    def scaled(name, data, steps, batch_size, rate, **changes):
        """The same at the scale of its paper."""
        def change(c):
            other(name, **changes)(c)
            c.data.update(dict(data, binarize=data.get("binarize", "none")))
            c.optim.update(dict(learning_rate=rate, b1=0.5 if name == "population" else 0.9))
            c.update(dict(steps=steps, batch_size=batch_size, eval_every=steps // 10, figures_every=steps // 10,
                          checkpoint_every=steps // 50))
        return change

    papers = dict(
        # 24,000 of 30,000 faces, 200 epochs; the error is of pixels in [0, 1], half of that in [-1, 1]. The rate of
        # the dropout is our choice.
        population_paper=scaled(
            "population", dict(source="tfds:celeb_a_hq/256", size=256, augment=("flip",), test_fraction=0.2), 240_000,
            20, 1e-4, network="resnet_v2", channels=(128,) * 7, blocks=2, dropout=0.2, latent=512,
            reconstruction=10_000.0, adversarial=100.0, patch_channels=(128, 128, 128, 64, 64),
            patch_strides=(2, 2, 2, 1, 1)),
        unscented_paper=scaled(
            "unscented", dict(source="tfds:fashion_mnist", size=32), 93_800, 64, 5e-3, network="unscented",
            channels=(32, 64, 128, 256, 512, 1024), norm=True, latent=64, points=1, selection="random", squared=False),
        info_paper=scaled(
            "info", dict(source="tfds:mnist", binarize="dynamic"), 30_000, 200, 1e-4, network="dcgan",
            channels=(64, 128), features=(1024,), latent=10, alpha=1.0),
        generated_paper=scaled(
            "generated", dict(source="tfds:mnist"), 30_000, 100, 1e-3, features=(500, 500), latent=20))

    others = dict(
        map=latent_map, capacity=other("capacity"), info=other("info"), mmd=other("info", alpha=1.0), stein=other(
            "info", divergence="stein"), autogen=other("autogen"),
        joint=other("joint"), unscented=other("unscented"), inverse_lipschitz=other(
            "inverse_lipschitz", inverse_lipschitz=0.3), lipschitz_clusters=other(
            "inverse_lipschitz", inverse_lipschitz=0.3, prior="gaussian_mixture"), population=other("population"),
        patchgan=other("population", adversarial=1.0), generated=other("generated"),
        beta_tc=other("total_correlation"), factor=other("total_correlation", estimator="adversary", tc=10.0),
        dip=other("dip"), spherical=other("spherical"), rae=other("regularized"),
        rae_l2=other("regularized", regularizer="l2", weight=1e-4))

    def tiny(c):
        if c.data.source.startswith("tfds:"):
            c.data.update(dict(source="digits", size=28, test_fraction=0.1))
        c.model.update(dict(features=(32,), latent=4, channels=(8,) * min(2, len(c.model.channels)), pixelcnn_hidden=8,
                            pixelcnn_layers=2))
        for key, value in dict(pseudo_inputs=5, clusters=3, flow_features=(8,), convex=(16, 16), critic=(16,),
                               patch_channels=(8, 8), patch_strides=(2, 1)).items():
            if key in c.model:
                c.model[key] = value
        c.data.size = 8 if c.model.decoder == "pixelcnn" else c.data.size
        c.evaluators = tuple(name for name in c.evaluators if name != "nll")

    return apply_variants(config, arg, dict(conv=conv, gaussian=gaussian, logistic=logistic, beta4=beta4,
                                            pixelcnn=pixelcnn, mnist_conv=mnist_conv, one_layer=one_layer,
                                            full=posterior("full"), mixture=posterior("mixture"),
                                            planar=posterior("planar"), iaf=posterior("iaf"),
                                            categorical=posterior("categorical"), vampprior=vampprior,
                                            clusters=clusters, tiny=tiny) | others | papers)
