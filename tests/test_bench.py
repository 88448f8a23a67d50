"""The training benchmark: our side runs, and FLOP are counted as by hand."""

import numpy as np

from experiments.bench import train as bench


def test_our_loop_trains_and_continues():
    advance = bench.build("mlp", "ours", num_train=64, batch=16)
    assert advance(2) > 0 and advance(2) > 0
    first, then = advance.rows
    assert set(first) >= {"loss", "gradient_norm", "kl"} and then["loss"] < first["loss"] < 800


def test_flops_of_a_step_are_those_counted_by_hand():
    # 784-512-(2 x 16), 16-512-784: forward, weight gradient, and input gradient of all layers but the first.
    first, rest = 784 * 512, 512 * 32 + 16 * 512 + 512 * 784
    assert bench.step_flops(bench.LAYERS["mlp"]) == bench.Macs(*[2 * (2 * first + 3 * rest)] * 2)
    # The same widths as convolutions of one pixel.
    as_conv = [bench.conv(1, i, o, 1, 1, 0) for i, o in ((784, 512), (512, 32), (16, 512), (512, 784))]
    assert bench.step_flops(as_conv) == bench.step_flops(bench.LAYERS["mlp"])


def test_products_of_a_convolution_are_those_a_dense_matrix_would_not_skip():
    def brute(n, m, k, s, p):
        """Multiply-adds of a square convolution n -> m, by walking over all output pixels and taps."""
        inside = 0
        for out in np.ndindex(m, m):
            for tap in np.ndindex(k, k):
                inside += all(0 <= o * s + t - p < n for o, t in zip(out, tap, strict=True))
        return inside

    assert bench.conv(7, 3, 5, 4, 2, 1) == (3 * 3 * 16 * 15, brute(7, 3, 4, 2, 1) * 15)
    assert bench.conv(3, 2, 2, 4, 2, 1) == (16 * 4, 9 * 4)  # one output pixel: a row and a column of taps see padding
    # 4 x 4 pixels painted by 3 x 3 kernels two apart, cropped to 7 x 7: the adjoint of the convolution 7 -> 4.
    assert bench.conv_transpose(4, 3, 5, 3, 2, 1, 0) == (16 * 9 * 15, brute(7, 4, 3, 2, 1) * 15)
    assert bench.conv_transpose(7, 1, 1, 3, 2, 1, 1) == (49 * 9, brute(14, 7, 3, 2, 1))


def test_network_of_the_benchmark_has_its_published_size():
    textbook = sum(layer.textbook for layer in bench.LAYERS["conv"])
    encoder = 14**2 * 16 * 128 + 7**2 * 16 * 128 * 256 + 3**2 * 16 * 256 * 512 + 16 * 512 * 1024 + 1024 * 32
    decoder = 16 * 16384 + 16 * 9 * 1024 * 512 + 49 * 9 * 512 * 256 + 196 * 9 * 256
    assert textbook == encoder + decoder
