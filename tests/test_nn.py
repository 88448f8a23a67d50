"""Network bodies: attention against numpy, residual blocks against their formula, shapes that must come back."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxae.nn import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    ImageDecoder,
    ImageEncoder,
    ResidualBlock,
    ResidualStack,
    SelfAttention,
    TransformerBlock,
    check_divisible,
)


def started(module, *shape, seed=0, dtype=jnp.float32):
    """Parameters with every leaf random (biases too, which start at zero) and an input."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], shape, dtype)
    params = jax.jit(module.init)(keys[1], x)
    leaves, tree = jax.tree.flatten(params)
    noise = [0.1 * jax.random.normal(key, leaf.shape) for key, leaf in
             zip(jax.random.split(keys[2], len(leaves)), leaves, strict=True)]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)]), x


def numbers(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])


def numpy_attention(params, x, causal):
    """One query at a time, one head at a time, in float64."""
    p, x = numbers(params), np.asarray(x, np.float64)
    b, t, d = x.shape
    heads, size = p["qkv"]["kernel"].shape[2:]
    y = np.tile(p["out"]["bias"], (b, t, 1))
    for n, h, i in np.ndindex(b, heads, t):
        q, k, v = (x[n] @ p["qkv"]["kernel"][:, j, h] + p["qkv"]["bias"][j, h] for j in range(3))
        seen = i + 1 if causal else t
        scores = np.exp(q[i] @ k[:seen].T / np.sqrt(size))
        y[n, i] += scores @ v[:seen] / scores.sum() @ p["out"]["kernel"][h]
    return y


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_numpy(causal):
    layer = SelfAttention(heads=3, causal=causal)
    params, x = started(layer, 2, 5, 12)
    assert_allclose(jax.jit(layer.apply)(params, x), numpy_attention(params, x, causal), rtol=1e-4, atol=1e-5)


def test_transformer_block_equals_its_formula_in_numpy():
    block = TransformerBlock(heads=2, mlp_ratio=2, causal=True)
    params, x = started(block, 2, 4, 8)
    p, want = numbers(params), np.asarray(x, np.float64)

    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["scale"] + p["bias"]

    want = want + numpy_attention({"params": p["attention"]}, norm(want, p["norm0"]), causal=True)
    hidden = norm(want, p["norm1"]) @ p["mlp"]["dense0"]["kernel"] + p["mlp"]["dense0"]["bias"]
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    want = want + hidden @ p["mlp"]["dense1"]["kernel"] + p["mlp"]["dense1"]["bias"]
    assert hidden.shape[-1] == 16
    assert_allclose(jax.jit(block.apply)(params, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_output_sees_only_its_past_if_and_only_if_causal(causal):
    block = TransformerBlock(heads=2, causal=causal)
    params, x = started(block, 1, 6, 8)
    jacobian = jax.jit(jax.jacobian(lambda x: block.apply(params, x[None])[0]))(x[0])  # [t d u d]
    reach = np.abs(np.asarray(jacobian)).sum(axis=(1, 3))
    future = np.triu(np.ones((6, 6), bool), 1)
    assert np.all(reach[~future] > 0)
    assert np.all(reach[future] == 0) if causal else np.all(reach[future] > 0)


def test_attention_without_mask_commutes_with_permutations_and_with_mask_does_not():
    order = np.array([3, 0, 4, 1, 2])
    for causal in (False, True):
        block = TransformerBlock(heads=2, causal=causal)
        params, x = started(block, 2, 5, 8)
        apply = jax.jit(block.apply)
        gap = jnp.abs(apply(params, x[:, order]) - apply(params, x)[:, order]).max()
        assert gap > 0.1 if causal else gap < 1e-5


def test_attention_logits_and_softmax_are_float32_in_bfloat16():
    """Logits of 64.234 and 64 are one number in bfloat16, which would weigh both tokens by 1/2."""
    layer = SelfAttention(heads=1, dtype=jnp.bfloat16)
    x = jnp.array([[[8, 15 / 32, 1, 0], [8, 0, 0, 0]]])
    key, value = jnp.diag(jnp.array([1.0, 1, 0, 0])), jnp.zeros((4, 4)).at[2, 0].set(1)
    query = jnp.array([16.0, 1, 0, 0])  # of every token
    params = {"params": {"qkv": {"kernel": jnp.stack([jnp.zeros((4, 4)), key, value], 1)[:, :, None],
                                 "bias": jnp.zeros((3, 1, 4)).at[0, 0].set(query)},
                         "out": {"kernel": jnp.eye(4)[None], "bias": jnp.zeros(4)}}}
    got = jax.jit(layer.apply)(params, x)[0, 0, 0]
    assert got.dtype == jnp.bfloat16
    assert_allclose(float(got), 1 / (1 + np.exp(-15 / 64)), atol=0.005)


@pytest.mark.parametrize("final", [False, True])
def test_mlp_equals_its_formula(final):
    mlp = MLP((7, 5, 3), activation=jnp.tanh, activate_final=final)
    params, x = started(mlp, 2, 6, 4)
    p, want = numbers(params), np.asarray(x, np.float64)
    assert list(p) == ["dense0", "dense1", "dense2"]
    for i in range(3):
        want = want @ p[f"dense{i}"]["kernel"] + p[f"dense{i}"]["bias"]
        want = np.tanh(want) if i < 2 or final else want
    assert_allclose(jax.jit(mlp.apply)(params, x), want, rtol=1e-4, atol=1e-5)


def test_residual_block_equals_its_formula():
    block = ResidualBlock(channels=4, hidden=3)
    params, x = started(block, 2, 5, 6, 4)
    p = params["params"]

    @jax.jit
    def formula(x):
        y = jax.lax.conv_general_dilated(nn.relu(x), p["conv0"]["kernel"], (1, 1), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC")) + p["conv0"]["bias"]
        return x + nn.relu(y) @ p["conv1"]["kernel"][0, 0] + p["conv1"]["bias"]

    assert p["conv0"]["kernel"].shape == (3, 3, 4, 3) and p["conv1"]["kernel"].shape == (1, 1, 3, 4)
    assert_allclose(jax.jit(block.apply)(params, x), formula(x), rtol=1e-4, atol=1e-5)


def test_residual_stack_applies_its_blocks_in_order_then_relu():
    stack = ResidualStack(channels=4, hidden=3, blocks=2)
    params, x = started(stack, 1, 4, 4, 4)
    block, p = ResidualBlock(4, 3), params["params"]
    want = x
    for i in range(2):
        want = jax.jit(block.apply)({"params": p[f"block{i}"]}, want)
    assert_allclose(jax.jit(stack.apply)(params, x), nn.relu(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size,channels", [((28, 28), (8, 16)), ((32, 16), (4, 8, 8)), ((6, 10), (5,))])
def test_decoder_gives_back_the_size_of_the_encoders_input(size, channels):
    encoder = ConvEncoder(channels, out=6, blocks=1, hidden=4)
    decoder = ConvDecoder(channels[::-1], out=3, blocks=1, hidden=4)
    x, key = jnp.ones((2, *size, 3)), jax.random.key(0)
    z, _ = jax.eval_shape(encoder.init_with_output, key, x)
    y, _ = jax.eval_shape(decoder.init_with_output, key, z)
    factor = 2 ** len(channels)
    assert z.shape == (2, size[0] // factor, size[1] // factor, 6)
    assert y.shape == x.shape


def test_every_image_pixel_reaches_the_latents_and_every_latent_reaches_the_image():
    encoder, decoder = ImageEncoder(3, (16, 16), 1, 8), ImageDecoder((12, 8, 2), (16, 16), 1, 8)
    encode_params, x = started(encoder, 1, 12, 8, 2)
    decode_params, z = started(decoder, 1, 3, seed=1)
    assert decoder.apply(decode_params, z).shape == (1, 12, 8, 2)
    down = jax.jit(jax.jacobian(partial(encoder.apply, encode_params)))(x)
    up = jax.jit(jax.jacobian(partial(decoder.apply, decode_params)))(z)
    assert jnp.all(jnp.abs(down).sum((0, 1, 2, -1)) > 0)  # [h w]
    assert jnp.all(jnp.abs(up).sum((0, 3, 4, 5)) > 0)  # [h w]


def test_group_norm_makes_the_residual_branch_blind_to_scale():
    block = ResidualBlock(channels=6, hidden=8, norm="group")
    params, x = started(block, 2, 6, 6, 6)
    apply = jax.jit(block.apply)
    assert_allclose(apply(params, 50 * x) - 50 * x, apply(params, x) - x, rtol=1e-2, atol=1e-3)
    plain = ResidualBlock(channels=6, hidden=8)
    plain_params, _ = started(plain, 2, 6, 6, 6)
    assert jnp.abs(plain.apply(plain_params, 50 * x) - 50 * x - plain.apply(plain_params, x) + x).max() > 1


@pytest.mark.parametrize("module,shape", [
    (MLP((5, 3), dtype=jnp.bfloat16), (2, 4)),
    (ConvEncoder((4, 4), 3, 1, 4, "group", jnp.bfloat16), (2, 8, 8, 1)),
    (ConvDecoder((4, 4), 3, 1, 4, "group", jnp.bfloat16), (2, 2, 2, 3)),
    (TransformerBlock(2, dtype=jnp.bfloat16), (2, 3, 4)),
])
def test_dtype_is_of_the_computation_and_parameters_stay_float32(module, shape):
    x = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    y, params = jax.jit(module.init_with_output)(jax.random.key(1), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("call,message", [
    (lambda: check_divisible((28, 30), 8), r"\(28, 30\) pixels .*pad them to \(32, 32\)"),
    (lambda: ConvEncoder((4, 4, 4), 2).init(jax.random.key(0), jnp.ones((1, 28, 28, 1))), "pad them to"),
    (lambda: ImageDecoder((28, 28, 1), (4, 4, 4)).init(jax.random.key(0), jnp.ones((1, 2))), "pad them to"),
    (lambda: ConvDecoder((), 1).init(jax.random.key(0), jnp.ones((1, 2, 2, 1))), "channels is empty"),
    (lambda: MLP(()).init(jax.random.key(0), jnp.ones((1, 2))), "features is empty"),
    (lambda: SelfAttention(3).init(jax.random.key(0), jnp.ones((1, 2, 4))), "not a multiple of 3 heads"),
    (lambda: ResidualBlock(4, 2).init(jax.random.key(0), jnp.ones((1, 2, 2, 3))), "got 3 channels"),
    (lambda: ResidualStack(4, 2, norm="batch").init(jax.random.key(0), jnp.ones((1, 2, 2, 4))), "'none' or 'group'"),
])
def test_bad_input_is_answered_with_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
