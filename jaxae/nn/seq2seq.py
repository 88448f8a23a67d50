"""A transformer that reads a sequence of tokens and one that writes another, with one table of words for both.

Tokens are integers; 0 is padding, has no probability, and as the first input of the decoder it begins the sequence.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxae.nn.sequences import sequence_mask
from jaxae.nn.transformer import Transformer

_NEVER = -1e9  # logit of padding; finite, so that masked terms have finite gradients


class Seq2Seq(nn.Module):
    """Encoder `[n t] -> [n t width]` and decoder p(y | memory) = prod_t p(y_t | y_<t, memory), memory `[n m e]`.

        read(x) = Transformer(sqrt(width) E[x]),    logits_t = Transformer(sqrt(width) E[y_<t], memory) E^T

    The table E `[vocabulary width]` is no parameter of the module but an argument, so that it may be learned, shared or
    fixed.

    Attributes:
      length: of the sequences, t.
      width: of words, layers and what is read.
      layers: blocks of the encoder, and of the decoder.
      heads: of each attention.
      hidden: width of the MLPs' hidden layers.
      dropout: rate; needs an rng named `dropout` where not deterministic.
      axis_name: mapped axis over which the batch is spread.
      dtype: of the computation; parameters and outputs are float32.
      activation: of the MLPs.
      norm: 'pre' or 'post': where the blocks have their norms, see `TransformerBlock`; a last one follows them.
      positions: 'learned' or 'sinusoidal'.
      directional: the reader too sees, at each token, only those before it.

    Raises:
      ValueError: for a norm or positions that do not exist.

    Reference: Vaswani et al., 'Attention is all you need', 2017, arXiv 1706.03762; the table at both ends: Press and
    Wolf, 'Using the output embedding to improve language models', 2016, arXiv 1608.05859.
    """

    length: int
    width: int = 128
    layers: int = 2
    heads: int = 8
    hidden: int = 512
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    activation: Callable[[Array], Array] = nn.relu
    norm: str = "pre"
    positions: str = "learned"
    directional: bool = False

    def setup(self):
        for name, kinds in (("norm", ("pre", "post")), ("positions", ("learned", "sinusoidal"))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"Seq2Seq: {name}={getattr(self, name)!r} must be one of {', '.join(kinds)}")

        def transformer(causal):
            return Transformer(self.width, (self.length,), self.width, self.layers, self.heads,
                               self.hidden / self.width, causal, dropout=self.dropout, axis_name=self.axis_name,
                               dtype=self.dtype, activation=self.activation, norm_place=self.norm, place=self.positions)

        self.encoder, self.decoder = transformer(self.directional), transformer(True)

    def __call__(self, table: Array, x: Int[Array, "n t"]) -> Float[Array, "n t v"]:
        """Logits of x from what is read of it: every parameter has its part."""
        return self.write(table, self.read(table, x), x)

    def read(self, table: Float[Array, "v d"], x: Int[Array, "n t"], *, deterministic: bool = True
             ) -> Float[Array, "n t d"]:
        """Vectors of the tokens in their context; padding is read by no other."""
        seen = None  # padding comes last: where only earlier tokens are seen, it is read by itself alone
        if not self.directional:
            seen = sequence_mask(x).at[:, 0].set(True)  # of a row of padding alone too, or its softmax is of nothing
        return self.encoder(self._words(table, x), seen=seen, deterministic=deterministic)

    def write(self, table: Float[Array, "v d"], memory: Float[Array, "n m e"], inputs: Int[Array, "n t"],
              kept: Bool[Array, "n t"] | None = None, *, deterministic: bool = True) -> Float[Array, "n t v"]:
        """Teacher forcing: logits of y_t from the inputs 0, y_1, ..., y_{t-1}, of which those not `kept` read as 0."""
        words = self._words(table, inputs)
        if kept is not None:
            words = words * kept[..., None]
        return _logits(self.decoder(words, memory=memory, deterministic=deterministic), table)

    def step(self, table: Float[Array, "v d"], state: PyTree, tokens: Int[Array, " n"]
             ) -> tuple[PyTree, Float[Array, "n v"]]:
        """Reads one token on a cache: the next state, and the logits of the token after it."""
        memory, cache = state
        # The cache counts tokens once for all sequences; a search moves rows, so that each row has a count here.
        cache = jax.tree.map(lambda leaf: leaf[0] if leaf.ndim == 1 else leaf, cache)
        out, cache = self.decoder(self._words(table, tokens[:, None]), cache, memory=memory)
        return (memory, _by_row(cache, memory.shape[0])), _logits(out[:, 0], table)

    @nn.nowrap
    def start(self, memory: Float[Array, "n m e"]) -> PyTree:
        """The state before the first token; leaves `[n ...]`."""
        n = memory.shape[0]
        net = Transformer(self.width, (self.length,), self.width, self.layers, self.heads, dtype=self.dtype)
        return memory, _by_row(net.start(n), n)

    def _words(self, table, tokens):
        return jnp.sqrt(1.0 * self.width) * table[tokens]


def _by_row(cache, n):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n,)) if leaf.ndim == 0 else leaf, cache)


def _logits(h, table):
    logits = jnp.matmul(h.astype(jnp.float32), table.astype(jnp.float32).T)
    return logits.at[..., 0].set(_NEVER)
