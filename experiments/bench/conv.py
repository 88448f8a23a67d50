"""Convolutions and the training step of a convolutional VAE, as a share of the machine's matrix-multiply rate.

    PYTHONPATH=. python experiments/bench/conv.py                       # the form this library chooses on CPU
    PYTHONPATH=. python experiments/bench/conv.py --forms matmul lax    # lax gradients take minutes on CPU

Everything runs inside a compiled loop, as training does, and the matmul rate is taken between the repetitions of
every row, so that shares hold on a busy machine. A share is (multiply-adds of the textbook convolution, padding
and cropped pixels included) / time / rate: above 1 means that useless products were left out. The VAE is the
network of pythae's MNIST benchmark without batch normalisation (`jaxae.nn.MNISTConvEncoder`).
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxae.nn.conv import conv, conv_transpose
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder

BATCH = 100
# name, function, side, channels in, channels out, kernel, stride, padding
LAYERS = [
    ("28x28x1 -> 128, k4 s2 p1", conv, 28, 1, 128, 4, 2, (1, 1)),
    ("14x14x128 -> 256, k4 s2 p1", conv, 14, 128, 256, 4, 2, (1, 1)),
    ("7x7x256 -> 512, k4 s2 p1", conv, 7, 256, 512, 4, 2, (1, 1)),
    ("3x3x512 -> 1024, k4 s2 p1", conv, 3, 512, 1024, 4, 2, (1, 1)),
    ("7x7x64 -> 64, k3 s1 p1", conv, 7, 64, 64, 3, 1, (1, 1)),
    ("14x14x64 -> 64, k3 s1 p1", conv, 14, 64, 64, 3, 1, (1, 1)),
    ("T 4x4x1024 -> 512, k3 s2 p1", conv_transpose, 4, 1024, 512, 3, 2, (1, 1)),
    ("T 7x7x512 -> 256, k3 s2 p1 op1", conv_transpose, 7, 512, 256, 3, 2, (1, 0)),
    ("T 14x14x256 -> 1, k3 s2 p1 op1", conv_transpose, 14, 256, 1, 3, 2, (1, 0)),
]


def seconds(call):
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def matmul_rate(n=1536):
    """A function that measures the multiply-add rate now, in FLOP/s."""
    a = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    return lambda: 2 * n**3 / min(seconds(lambda: product(a)) for _ in range(2))


def measure(call, flops, rate, repeats, budget=20.0):
    """Median milliseconds of a call, and the median share of the matmul rate measured next to it."""
    jax.block_until_ready(call())
    times, shares, start = [], [], time.perf_counter()
    while not times or (len(times) < repeats and time.perf_counter() - start < budget):
        rates = rate()
        times.append(seconds(call))
        shares.append(flops / times[-1] / ((rates + rate()) / 2))
    return 1e3 * float(np.median(times)), float(np.median(shares))


def looped(f, steps, *arguments):
    """`steps` calls of `f` in one compiled loop; a carried scalar on kernel and output keeps XLA from hoisting."""
    def run(*arguments):
        def body(_, carry):
            first, *middle, last = arguments
            leaves = jax.tree.leaves(f(first + carry, *middle, last + carry))
            return 1e-20 * sum(leaf.ravel()[0] + leaf.ravel()[-1] for leaf in leaves)
        return lax.fori_loop(0, steps, body, jnp.float32(0))
    return partial(jax.jit(run), *arguments)


def layers(form, rate, repeats, match, steps=4):
    print(f"\n{'form':7}{f'layer, batch {BATCH}':34}{'forward ms':>11}{'share':>7}{'gradients ms':>14}{'share':>7}")
    for name, function, side, c, o, k, s, pad in (layer for layer in LAYERS if match in layer[0]):
        keys = jax.random.split(jax.random.key(1), 3)
        x = jax.random.normal(keys[0], (BATCH, side, side, c))
        kernel = jax.random.normal(keys[1], (k, k, c, o)) / k / c**0.5
        layer = partial(function, strides=s, padding=(pad, pad), form=form)
        y = jax.random.normal(keys[2], jax.eval_shape(layer, x, kernel).shape)
        coarse = y.shape[1] if function is conv else side
        flops = 2.0 * BATCH * coarse**2 * k * k * c * o

        def gradients(kernel, x, y, layer=layer):
            return jax.vjp(lambda x, kernel: layer(x, kernel), x, kernel)[1](y)

        forward = measure(looped(lambda x, kernel, layer=layer: layer(x, kernel), steps, x, kernel),
                          steps * flops, rate, repeats)
        backward = measure(looped(gradients, steps, kernel, x, y), steps * 2 * flops, rate, repeats)
        print(f"{form:7}{name:34}{forward[0] / steps:11.1f}{forward[1]:7.2f}{backward[0] / steps:14.1f}"
              f"{backward[1]:7.2f}", flush=True)


def vae(rate, repeats, steps=3, latents=16):
    """The whole training step: forward, loss, gradients, Adam; `steps` updates a call."""
    encoder, decoder = MNISTConvEncoder(), MNISTConvDecoder()
    x = jax.random.uniform(jax.random.key(0), (BATCH, 28, 28, 1))
    heads = jax.random.normal(jax.random.key(1), (1024, 2 * latents)) / 32
    params = (encoder.init(jax.random.key(2), x), heads, decoder.init(jax.random.key(3), jnp.ones((1, latents))))
    optimizer = optax.adam(1e-4)

    def loss(params, key):
        mean, log_var = jnp.split(encoder.apply(params[0], x) @ params[1], 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        logits = decoder.apply(params[2], z)
        nll = optax.sigmoid_binary_cross_entropy(logits, x).sum((1, 2, 3))
        return jnp.mean(nll + 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=-1))

    def update(state, key):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    run = jax.jit(lambda state, keys: lax.scan(update, state, keys), donate_argnums=0)
    state = [(params, optimizer.init(params))]

    def call():
        state[0], values = run(state[0], jax.random.split(jax.random.key(4), steps))
        return values

    # Multiply-adds of an image's forward pass, textbook count; a step costs three times that.
    macs = sum((_out(side, k, s, pad) if f is conv else side)**2 * k * k * c * o
               for _, f, side, c, o, k, s, pad in LAYERS if s == 2)
    macs += 2 * 1024 * latents + latents * 4 * 4 * 1024
    flops = 3 * 2.0 * macs * BATCH * steps
    ms, share = measure(call, flops, rate, repeats, budget=60.0)
    images = BATCH * steps / ms * 1e3
    print(f"\nVAE training step, batch {BATCH}: {ms / steps:.0f} ms, {images:.0f} images/s, "
          f"{flops / BATCH / steps / 1e9:.2f} GFLOP an image, share of the matmul rate {share:.2f}")


def _out(side, k, s, pad):
    return (side + sum(pad) - k) // s + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", nargs="+", default=["matmul"], choices=["matmul", "lax"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--match", default="", help="only layers whose name contains this")
    parser.add_argument("--only", choices=["layers", "vae"])
    options = parser.parse_args()
    rate = matmul_rate()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, float32, matmul {rate() / 1e9:.0f} GFLOP/s")
    if options.only != "vae":
        for form in options.forms:
            layers(form, rate, options.repeats, options.match)
    if options.only != "layers":
        vae(rate, options.repeats)


if __name__ == "__main__":
    main()
