"""Claims of the papers on the law that Wasserstein autoencoders learn: its rate, contamination and a bound."""

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.rates import manifold
from claims.training import config_of, trained
from claims.transport import exact_wasserstein, points
from jaxae import losses, priors
from jaxae.systems.transport import wae


@claim(
    paper="P057",
    budget=60,
    threshold={"slope": 0.05},
    sentence="with the true encoder the root MMD of the codes to the prior falls as n^(-1/2)",
)
def latent_law_is_learned_at_the_root_rate(threshold):
    """Biased root MMD of n planted codes against 10,000 draws, n = 100 to 3,200, 10 repeats."""
    kernel, reference = losses.rbf(1.0), jax.random.normal(jax.random.key(0), (10_000, 2))
    sizes, roots = np.array([100, 200, 400, 800, 1600, 3200]), []
    # k(y, y') over the reference is the same in every row: computed once.
    within = float(kernel(reference, reference).mean())
    for n in sizes:

        def squared(key, n=n):
            z = jax.random.normal(key, (n, 2))
            return kernel(z, z).mean() - 2.0 * kernel(z, reference).mean() + within

        values = jax.lax.map(jax.jit(squared), jax.random.split(jax.random.key(n), 10))
        roots.append(float(jnp.sqrt(values.mean())))
    slope = float(np.polyfit(np.log(sizes), np.log(roots), 1)[0])
    return Outcome(abs(slope + 0.5) <= threshold["slope"], {"slope": slope, "root_mmd": roots}, tuple(range(10)))


@claim(
    paper="P057",
    budget=30,
    threshold={"slack": 0.0},
    sentence="contamination of a share eps moves the root MMD of a fixed encoder's codes by at most 2 eps sqrt(sup k)",
)
def contamination_moves_the_latent_law_linearly(threshold):
    """A fixed encoder, a far point mass as contamination, eps = 0, .05, .1, .2."""
    kernel, prior = losses.rbf(1.0), jax.random.normal(jax.random.key(0), (4000, 2))
    codes = np.asarray(jax.random.normal(jax.random.key(1), (4000, 2))) * 1.1 + 0.1

    def root(z):
        return float(jnp.sqrt(losses.mmd(jnp.asarray(z), prior, kernel, unbiased=False)))

    clean, found, holds = root(codes), {}, True
    for eps in (0.05, 0.1, 0.2):
        z = codes.copy()
        z[: int(eps * len(z))] = 20.0
        found[f"shift_{eps}"] = abs(root(z) - clean)
        holds &= found[f"shift_{eps}"] <= 2 * eps + threshold["slack"]
    return Outcome(bool(holds), found | {"clean": clean})


@claim(
    paper="P057",
    budget=200,
    threshold={},
    sentence="W_1 between generated and true law is at most Lip(D) W_1(E#P, P_Z) + E|x - D(E(x))|, for every n",
)
def generation_bound_holds(threshold):
    """WAE-MMD on planted data, 10 dimensions of 2; Lip(D) by the product of spectral norms; 1,000 samples."""
    x, _ = manifold(5000, 2, 10, 0)
    fresh, _ = manifold(2000, 2, 10, 1)
    found, holds = {}, True
    floor = exact_wasserstein(fresh[:1000], fresh[1000:], 1)
    for n in (250, 1000, 4000):
        dataset = points(x[: int(n / 0.8)])
        run = trained(
            config_of(wae, 2000, features=(64, 64), latent=2, likelihood="mse", prior="uniform", cost_scale=1.0),
            dataset,
        )
        member, system = run.members[0], run.system
        kernels = [layer["kernel"] for layer in member.params["decoder"]["mlp"].values()]
        lipschitz = float(np.prod([np.linalg.norm(np.asarray(k), 2) for k in kernels]))
        z = np.asarray(system.encode(member, jnp.asarray(fresh[:1000])))
        prior = np.asarray(priors.uniform(2).sample((), jax.random.key(1), 1000))
        generated = np.asarray(system.decode(member, jnp.asarray(prior)))
        left = exact_wasserstein(generated, fresh[1000:], 1) - floor
        error = float(
            np.linalg.norm(
                fresh[:1000] - np.asarray(system.reconstruct(member, jnp.asarray(fresh[:1000]))), axis=1
            ).mean()
        )
        right = lipschitz * exact_wasserstein(z, prior, 1) + error
        found |= {f"w1_{n}": left, f"bound_{n}": right, f"error_{n}": error}
        holds &= left <= right
    return Outcome(bool(holds), found | {"floor": floor})


@claim(
    paper="P057",
    budget=240,
    threshold={"r_squared": 0.9},
    sentence="retrained on data of which a share eps is a far point, an autoencoder has a latent error under the clean "
    "law that rises with eps and is at most the error under the law it was trained on plus 2 eps sqrt(sup k), and W_1 "
    "between the reconstructed and the clean law grows linearly",
)
def contamination_moves_a_retrained_model_linearly(threshold):
    """WAE-MMD on planted data, 10 dimensions of 2; eps = 0, .05, .1, .2; means over 4 seeds; root MMD, W_1 exact."""
    shares, kernel, seeds = (0.0, 0.05, 0.1, 0.2), losses.rbf(0.5), 4
    x, _ = manifold(5000, 2, 10, 0)
    fresh, _ = manifold(2000, 2, 10, 1)
    draws = priors.uniform(2).sample((), jax.random.key(1), 2000)
    far = np.full(10, 4.0, np.float32)

    def contaminated(points, share):
        points = points.copy()
        points[: round(share * len(points))] = far
        return points

    root = jax.jit(lambda z, draws: jnp.sqrt(losses.mmd(z, draws, kernel, unbiased=False)))
    clean, own, transport = ([] for _ in range(3))
    for share in shares:
        shuffled = np.random.default_rng(0).permutation(contaminated(x, share))
        config = config_of(wae, 3000, seeds=seeds, batch_size=200, features=(64, 64), latent=2, likelihood="mse",
                           prior="uniform", cost_scale=1.0, weight=10.0)
        config.optim.update(dict(schedule="cosine", average=0.99))
        run = trained(config, points(shuffled))
        rows = []
        for member in run.members:
            seen = contaminated(fresh[:1000], share)
            z, z_seen = (run.system.encode(member, jnp.asarray(a)) for a in (fresh[:1000], seen))
            made = np.asarray(run.system.reconstruct(member, jnp.asarray(seen)))
            rows.append((float(root(z, draws)), float(root(z_seen, draws)), exact_wasserstein(made, fresh[1000:], 1)))
        for column, values in zip((clean, own, transport), np.transpose(rows), strict=True):
            column.append(values)
    clean, own, transport = (np.array(a) for a in (clean, own, transport))  # [shares seeds]
    r_squared = np.corrcoef(shares, transport.mean(1))[0, 1] ** 2
    bounded = bool(np.all(clean <= own + 2 * np.array(shares)[:, None]))
    rising = bool(np.all(np.diff(clean.mean(1)) > 0))
    found = {f"{name}_{share}": float(value) for name, table in (("clean", clean), ("own", own), ("w1", transport))
             for share, value in zip(shares, table.mean(1), strict=True)}
    return Outcome(bounded and rising and bool(r_squared > threshold["r_squared"]),
                   found | {"r_squared": float(r_squared)}, tuple(range(seeds)))
