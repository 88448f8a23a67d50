"""What models reach after the same updates: ours against pythae, on the same digits with the same networks.

    PYTHONPATH=. python experiments/bench/quality.py            # 10 minutes on 2 cores
    PYTHONPATH=. python experiments/bench/quality.py --cases vae --seeds 2

Needs the extra `parity`. 784-512-16 with ReLU, 4,000 grey digits for training, 1,000 for the test, Adam at 1e-3, in
batches of 100. ELBO and NLL (importance samples, Bernoulli cross-entropy of grey values) are nats an example on the
test set; the Frechet distance is between 1,000 decoded draws of the prior and the test set on the features of a digit
classifier. Both start from weights of the same variance, 1 / (3 inputs), which is PyTorch's: from three times that
(Flax's) the VAE over-fits these 4,000 digits by some 0.7 nat of ELBO more.
"""

import argparse
import json
import multiprocessing
import sys
from datetime import date
from pathlib import Path

import numpy as np

BATCH, LATENT, RATE = 100, 16, 1e-3
RESULTS = Path(__file__).with_name("results") / "quality.json"
OURS = {"vae": ("vae", {}), "beta-vae": ("vae", {"beta": 4.0}), "iwae": ("iwae", {"samples": 5}),
        "wae-mmd": ("wae", {"likelihood": "bernoulli"})}


def ours(case: str, seeds: int, steps: int, nll_samples: int) -> list[dict]:
    """As `peers_quality.measure`, for all seeds side by side."""
    import jax

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from claims.training import config_of, digits, nll, over, trained

    from jaxae.systems.gaussian import iwae, vae
    from jaxae.systems.transport import wae

    name, keys = OURS[case]
    dataset = digits(size=28)
    run = trained(config_of({"vae": vae, "iwae": iwae, "wae": wae}[name], steps, seeds=seeds, batch_size=BATCH,
                            rate=RATE, features=(512,), latent=LATENT, initializer="third_uniform", **keys), dataset)
    rows = []
    for i, member in enumerate(run.members):
        samples = jax.jit(lambda key, m=member: run.system.sample(m, key, 1000))(jax.random.key(i))
        rows.append({"samples": np.asarray(samples)})
        if run.system.log_weights is not None:
            rows[-1] |= {"nll": nll(run, member, dataset, nll_samples),
                         "elbo": float(over(lambda b, m=member: run.system.log_weights(
                             m, jax.random.key(8), b["x"], 50).mean(0), dataset.test, dataset).mean())}
    return rows


def theirs(case: str, seeds: int, steps: int, nll_samples: int, train, test) -> list[dict]:
    """pythae's, in a process without jax."""
    import peers_quality

    return [peers_quality.measure(case, train, test, seed, steps, BATCH, RATE, LATENT, nll_samples)
            for seed in range(seeds)]


def table(rows: list[dict]) -> str:
    """For people: mean +- standard deviation over seeds."""
    lines = [f"{'model':10}{'measure':10}{'ours':>18}{'pythae':>18}"]
    for row in rows:
        cells = [f"{row[side]['mean']:.2f} +- {row[side]['sd']:.2f}" for side in ("ours", "pythae")]
        lines.append(f"{row['case']:10}{row['measure']:10}{cells[0]:>18}{cells[1]:>18}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--nll_samples", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    options = parser.parse_args()

    from jaxae import data, metrics

    dataset = data.load(dict(source="digits"))
    train, test = (np.asarray(split.arrays()["x"], np.float32) / 255.0 for split in (dataset.train, dataset.test))
    features = metrics.digit_features()
    real, rows = np.asarray(features(test)), []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for case in options.cases:
            sizes = (case, options.seeds, options.steps, options.nll_samples)
            found = {"pythae": pool.apply(theirs, (*sizes, train, test)), "ours": ours(*sizes)}
            for members in found.values():
                for member in members:
                    member["frechet"] = float(metrics.frechet_distance(
                        np.asarray(features(member.pop("samples"))), real))
            for measure in found["ours"][0]:
                values = {side: [member[measure] for member in members] for side, members in found.items()}
                rows.append({"case": case, "measure": measure} | {
                    side: {"mean": round(float(np.mean(v)), 3), "sd": round(float(np.std(v, ddof=1)), 3)}
                    for side, v in values.items()})
    print(table(rows))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"date": date.today().isoformat(), "seeds": options.seeds,
                                          "steps": options.steps, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
