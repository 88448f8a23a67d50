"""Separator: a paraphraser that takes the meaning from one sentence and the form, as codes, from another."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.data.sentences import END
from jaxae.metrics import code_counts, perplexity, usage
from jaxae.metrics.text import bleu_counts, bleu_of_counts, ibleu_of
from jaxae.metrics.tokens import exact_match, token_accuracy
from jaxae.nn.sequences import sequence_mask
from jaxae.quantizers import Codes
from jaxae.systems import figures as draw
from jaxae.systems import paraphraser as core
from jaxae.systems.base import Latent, Objective, State, System, Variables, by_chunks, means, variables
from jaxae.systems.builders import Player, players
from jaxae.systems.compose import in_phases
from jaxae.systems.gaussian.vae import warm_up

_COUNTS = {"": "bleu_counts", "oracle_": "oracle_counts"}


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `paraphraser.defaults`.

    `triples`: whether the meaning comes from the data's `paraphrase` and the form from its `exemplar`, or all from the
    target itself, as in an autoencoder. `kl_weight`: of the KL's mean over the dimensions of the meaning; it is 0 for
    `anneal_start` updates and rises to its value in `anneal_steps` more. `predictor_steps`: the last steps of the
    run, which train the code predictor alone, with `predictor_rate`. `predictor_batch`: examples of one of its updates,
    a multiple of `config.batch_size`, of so many of these steps: all that it learns from stays as it is meanwhile, so
    that the mean of their gradients is that of the large batch. 0 is `config.batch_size`.
    """
    return ConfigDict(core.defaults() | dict(triples=True, kl_weight=1.0, anneal_start=0, anneal_steps=0,
                                             predictor_steps=500, predictor_rate=1e-3,
                                             predictor_batch=0))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Hosking and Lapata, Factorising Meaning and Form for Intent-Preserving Paraphrasing, 2021,
    arXiv 2105.15053.

    A target Y is written from a paraphrase, which gives the meaning, and an exemplar of Y's template in other words,
    which gives the form:

        z_sem ~ N(mu(X_sem), sigma(X_sem)^2),    z_syn = quantizer(e(X_syn)),    p(Y | z_sem, z_syn)

    Loss per example: -log p / tokens + w mean_d KL(q(z_sem_d) || N(0, 1)) + the quantizer's commitment. The mean over
    dimensions is that of the published code, beside a mean over tokens. `reconstruction` and `kl` are reported in nats
    per example, summed. Then the code predictor learns, from the encoding of the paraphrase, the codes of the target:
    cross-entropy in nats per head. Its phase reports its own loss as `loss`; evaluation reports it as `predictor`.

    Evaluation writes: `exact` and `token_accuracy` of Y from the triple; `bleu`, `self_bleu` and `ibleu` of the
    paraphrases that predicted codes make of the data's `paraphrase`, against its `references`, or Y where the data have
    none; `oracle_bleu` and the like with the codes of Y. Without triples it copies: the autoencoder of the paper's
    comparison (`form_heads=0`, `variational=False`) or its VAE.

    Latents are vectors [n width], (mean of the meaning, codes of the form). What else the model does is in
    `paraphraser.paraphraser(config, example)`: `paraphrase`, `transfer` (the oracle mode), `predicted_codes`.

    The published code has `transformer_norm='post'`, `transformer_positions='sinusoidal'` and an encoder that sees
    earlier words alone, `transformer_directional=True`. Its output layer is the words' table with nothing before it,
    where a linear layer comes here between; and it has dropout on positions and attention weights too.

    Raises:
      ValueError: for options that do not exist or do not fit the data or one another.
    """
    model, parts = config.model, core.paraphraser(config, example, axis_name)
    _check(model, parts, example, config)
    quantizer = parts.quantizer

    def init(key: Array, batch):
        params, moving = parts.init(key, batch["x"])
        return params, (moving, jnp.zeros((), jnp.int32))  # counts the updates, for the annealing

    def now_of(params, extra):
        return Variables(params, extra[0])

    def sources(batch):
        """Where meaning and form come from."""
        return (batch["paraphrase"], batch["exemplar"]) if model.triples else (batch["x"], batch["x"])

    def objective(params, extra, batch, key, train: bool):
        """Loss [n], metrics and the new extra state."""
        moving, step = extra
        keys = collectives.split_keys(key, ("read", "z", "quantize", "write"))
        noise = {name: key if train else None for name, key in keys.items()}
        pair = jnp.stack(sources(batch), 1)  # [n 2 t]; neighbours, so that a replica's rows are those of its examples
        read = parts.read(params, pair.reshape(-1, pair.shape[-1]), noise["read"])
        out = read.meaning[::2]
        memory, _ = parts.posterior.draw(out, keys["z"], axis_name)
        y, value, metrics = batch["x"], 0.0, {}
        if parts.form:
            found = quantizer.quantize(read.form[1::2], Codes(params.get("codes", ()), moving), keys["quantize"], train)
            memory, moving, value = jnp.concatenate([memory, found.z_q], -1), found.state.moving, found.loss
            metrics |= found.metrics
            if train:
                metrics["perplexity"] = perplexity(collectives.total(counts_of(found.indices), axis_name)).mean()
        reconstruction = -parts.log_prob(params, memory, y, noise["write"])
        value = value + reconstruction / jnp.maximum(sequence_mask(y).sum(-1), 1)
        metrics["reconstruction"] = reconstruction
        if model.variational:
            kl = metrics["kl"] = parts.posterior.kl(out)
            weight = model.kl_weight
            if model.anneal_start or model.anneal_steps:
                weight = weight * warm_up(jnp.maximum(step - model.anneal_start, 0), max(model.anneal_steps, 1))
                metrics["kl_weight"] = weight
            value = value + weight * kl / parts.meaning
        return value, metrics, (moving, step)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        value, metrics, extra = objective(params, extra, batch, key, train)
        return Objective(value, metrics if train else metrics | measures(now_of(params, extra), batch), extra)

    def predictor_loss(params, extra, batch, key, train: bool) -> Objective:
        if not train:
            return loss(params, extra, batch, key, False)
        return Objective(cross_entropy(now_of(params, extra), batch, key), {}, extra)

    def cross_entropy(now, batch, key=None):
        """Of the target's codes, from the paraphrase's encoding: [n] nats per head."""
        fixed = jax.lax.stop_gradient(parts.read(now.params, batch["paraphrase"]).pooled)
        logits = parts.predict(now.params, fixed, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, parts.codes_of(now, batch["x"])).mean(-1)

    def measures(now, batch):
        """What evaluation adds, per example."""
        y, source, several = batch["x"], batch.get("paraphrase"), {}
        several["rebuilt"] = recalled(now, batch)
        if source is not None:
            z = parts.meaning_of(now, source)
            several[""] = parts.join(now, z, parts.predicted_codes(now, source) if parts.form else None)
            if parts.form:
                several["oracle_"] = parts.join(now, z, parts.codes_of(now, y))
        written = parts.write(now, jnp.concatenate(list(several.values())))  # one search for all
        written = dict(zip(several, jnp.split(written, len(several)), strict=True))
        y_hat = written.pop("rebuilt")
        found = {"exact": exact_match(y, y_hat), "token_accuracy": token_accuracy(y, y_hat)}
        if source is None:
            return found
        if parts.form:
            found["predictor"] = cross_entropy(now, batch)
            found["code_counts"] = jax.vmap(counts_of)(parts.codes_of(now, y))
        references = batch["references"] if "references" in batch else y[:, None]
        for name, y_hat in written.items():
            found[_COUNTS[name]] = jnp.stack([bleu_counts(y_hat, references, END),
                                              bleu_counts(y_hat, source[:, None], END)], 1)
        return found

    def counts_of(codes):
        """Of each head, [heads K], from [... heads]."""
        return jax.vmap(lambda column: code_counts(column, quantizer.codes), 1)(codes.reshape(-1, quantizer.places))

    def summary(sums):
        vectors = {name: sums[name] for name in (*_COUNTS.values(), "code_counts") if name in sums}
        found = means({name: value for name, value in sums.items() if name not in vectors})
        for prefix, name in _COUNTS.items():
            if name in vectors:
                score, copied = bleu_of_counts(vectors[name])
                found |= {f"{prefix}bleu": score, f"{prefix}self_bleu": copied,
                          f"{prefix}ibleu": ibleu_of(score, copied)}
        if "code_counts" in vectors:
            counts = vectors["code_counts"]
            found |= {"perplexity": perplexity(counts).mean(), "usage": usage(counts).mean()}
        return found

    def prepare(state: State, data, key: Array) -> State:
        vectors = by_chunks(lambda x: parts.read(state.params, x).form, sources(data)[1])
        moving, step = state.extra
        new = quantizer.start(vectors, Codes(state.params.get("codes", ()), moving), key)
        learned = {"codes": new.learned} if jax.tree.leaves(new.learned) else {}
        return state._replace(params=state.params | learned, extra=(new.moving, step))

    def after(params, extra, key):
        moving, step = extra
        if quantizer is not None and quantizer.after is not None:
            new = quantizer.after(Codes(params.get("codes", ()), moving), key)
            params, moving = params | {"codes": new.learned}, new.moving
        return params, (moving, step + 1)

    def recalled(now, batch):
        """What the target is written from: the memory that its triple gives."""
        source, exemplar = sources(batch)
        return parts.join(now, parts.meaning_of(now, source), parts.codes_of(now, exemplar) if parts.form else None)

    def rebuilt(now, batch):
        return parts.write(now, recalled(now, batch))

    def encode(now, x):
        now = now_of(*now)
        return parts.join(now, parts.meaning_of(now, x), parts.codes_of(now, x) if parts.form else None)

    def decode(now, memory, key=None):
        return parts.write(now_of(*now), memory)

    def sample(now, key, n: int):
        """Meanings of the prior N(0, I), in forms of random codes."""
        z_key, code_key = jax.random.split(key)
        z, codes = jax.random.normal(z_key, (n, parts.meaning)), None
        if parts.form:
            codes = jax.random.randint(code_key, (n, quantizer.places), 0, quantizer.codes)
        return parts.write(now_of(*now), parts.join(now_of(*now), z, codes))

    def figures(state: State, batch, key):
        """Pairs of lines: targets over what the triple makes of them, inputs over their paraphrases, and exemplars over
        what the first sentence says becomes in their form."""
        now = now_of(*variables(state))
        shown = draw.comparison(batch["x"], rebuilt(now, batch))
        if "paraphrase" in batch:
            source = batch["paraphrase"]
            shown["paraphrases"] = draw.comparison(source, parts.paraphrase(now, source))["reconstructions"]
        if parts.form:
            exemplars = batch["exemplar"][:12]
            first = jnp.broadcast_to(batch["paraphrase"][0], exemplars.shape)
            page = draw.comparison(exemplars, parts.transfer(now, first, exemplars))["reconstructions"]
            shown["transfers"] = jnp.concatenate([first[:1], jnp.zeros_like(first[:1]), page])
        return shown

    rest = dict(summary=summary, encode=encode, decode=decode, sample=sample, figures=figures,
                reconstruct=lambda now, x, key=None: decode(now, encode(now, x)),
                latent=Latent((parts.meaning + parts.form,)))
    names = set(jax.eval_shape(init, jax.random.key(0), example)[0])
    fixed = {"predictor"} | ({"words"} if model.embeddings else set())  # words that were given stay as they are
    shared = dict(average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name)
    steps = config.steps - (model.predictor_steps if parts.form else 0)
    first = players(init, [Player("", loss, optim.optimizer(config.optim, steps), tuple(sorted(names - fixed)))],
                    after=after, prepare=prepare if quantizer and quantizer.start else None, **shared, **rest)
    if not parts.form or not model.predictor_steps:
        return first
    rule = optax.adam(model.predictor_rate)
    if model.predictor_batch > config.batch_size:
        rule = optax.MultiSteps(rule, model.predictor_batch // config.batch_size).gradient_transformation()
    second = players(init, [Player("", predictor_loss, rule, ("predictor",))], **shared, **rest)
    return in_phases([(first, steps), (second, model.predictor_steps)])


def _check(model, parts, example, config):
    steps, batch = config.steps, config.batch_size
    wanted = ("paraphrase", "exemplar") if parts.form or model.triples else ()
    missing = [name for name in wanted if name not in example]
    if missing:
        raise ValueError(f"the data have no {' and no '.join(missing)}: use data.source='paraphrases' or arrays of "
                         "these names, tokens [n t] like x, such as jaxae.data.paraphrases.make_triples makes of "
                         "clusters")
    if parts.form and not model.triples:
        raise ValueError("a form beside the meaning is learned from triples: set model.triples=True, or "
                         "model.form_heads=0 for an autoencoder")
    if model.triples and not parts.form:
        raise ValueError("model.form_heads=0 leaves nothing that the exemplar could tell: set model.triples=False")
    if model.anneal_start < 0 or model.anneal_steps < 0 or model.kl_weight < 0:
        raise ValueError(f"model.anneal_start={model.anneal_start}, model.anneal_steps={model.anneal_steps} and "
                         f"model.kl_weight={model.kl_weight} must not be negative")
    if parts.form and not 0 <= model.predictor_steps < steps:
        raise ValueError(f"model.predictor_steps={model.predictor_steps} must be a part of the {steps} config.steps")

    if parts.form and (model.predictor_batch < 0 or model.predictor_batch % batch):
        raise ValueError(f"model.predictor_batch={model.predictor_batch} must be a multiple of config.batch_size="
                         f"{batch}, or 0")


__all__ = ["build", "defaults"]
