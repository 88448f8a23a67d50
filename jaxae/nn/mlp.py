"""Multi-layer perceptron."""

from collections.abc import Callable, Sequence

import flax.linen as nn
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float


class MLP(nn.Module):
    """Dense layers with an activation between them: `[... d] -> [... features[-1]]`.

    Attributes:
      features: width of every layer, the last one is the output.
      activation: elementwise, between layers.
      dtype: of the computation; None keeps the input's. Parameters are float32, in `dense0`, `dense1`, ...
      activate_final: apply `activation` to the output too.
      kernel_init: of the weights; biases start at zero.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> MLP((512, 16)).init_with_output(jax.random.key(0), jnp.ones((2, 784)))[0].shape
      (2, 16)
    """

    features: Sequence[int]
    activation: Callable[[Array], Array] = nn.relu
    dtype: Dtype | None = None
    activate_final: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch o"]:
        if not self.features:
            raise ValueError("MLP: features is empty: name at least the width of the output.")
        for i, width in enumerate(self.features):
            x = nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name=f"dense{i}")(x)
            if i + 1 < len(self.features) or self.activate_final:
                x = self.activation(x)
        return x
