"""Convolution and transposed convolution as matrix products of shifted slices: the form for CPU.

Along one axis there are n pixels on the fine side (a convolution's input), m on the coarse side (its output); tap t
of coarse pixel i touches fine pixel i * s + t - lo. `lows` is the low padding of each axis, `coarse` and `fine` are
`(rows, columns)`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Two = tuple[int, int]


def both(function: Callable, *axes) -> tuple:
    """`function` of the rows' values and of the columns' values."""
    return tuple(function(*values) for values in zip(*axes, strict=True))


def conv(x: Float[Array, "b n n2 c"], kernel: Float[Array, "kh kw c o"], strides: Two, lows: Two,
         coarse: Two) -> Float[Array, "b m m2 o"]:
    """A convolution to `coarse` pixels: what each of them sees side by side, times the kernel."""
    kernel, lows = _trim(kernel, x.shape[1:3], coarse, strides, lows)
    return _patches(x, kernel.shape[:2], strides, lows, coarse) @ kernel.reshape(-1, kernel.shape[-1])


def conv_transpose(x: Float[Array, "b m m2 c"], kernel: Float[Array, "kh kw c o"], strides: Two, lows: Two,
                   fine: Two) -> Float[Array, "b n n2 o"]:
    """A transposed convolution to `fine` pixels, by the form that computes less."""
    shares = both(_useful_share, fine, x.shape[1:3], kernel.shape[:2], strides, lows)
    form = _phases if shares[0] * shares[1] < 0.8 else _paint
    return form(x, kernel, strides, lows, fine)


def _live_taps(n, m, k, s, lo):
    """First and last-plus-one tap that ever touches a fine pixel: the others only see padding."""
    live = [t for t in range(k) if any(0 <= i * s + t - lo < n for i in range(m))]
    return (live[0], live[-1] + 1) if live else (0, k)


def _useful_share(n, m, k, s, lo):
    """Share of the products coarse pixel x tap that land inside the fine image."""
    taps = range(*_live_taps(n, m, k, s, lo))
    return sum(0 <= i * s + t - lo < n for i in range(m) for t in taps) / (m * len(taps))


def _trim(kernel, fine, coarse, strides, lows):
    """The kernel without taps that only see padding, and the low padding that goes with it."""
    rows, columns = both(_live_taps, fine, coarse, kernel.shape[:2], strides, lows)
    return kernel[slice(*rows), slice(*columns)], (lows[0] - rows[0], lows[1] - columns[0])


def _patches(x, kernel, strides, lows, coarse):
    """`[b n n' c] -> [b m m' kh*kw*c]`: what each coarse pixel sees, as shifted slices side by side."""
    # Pad (or crop, where negative) to the pixels that are really read.
    pads = both(lambda n, m, k, s, lo: (lo, (m - 1) * s + k - n - lo, 0),
                x.shape[1:3], coarse, kernel, strides, lows)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    (m, m2), (s, s2) = coarse, strides
    slices = [x[:, i:i + (m - 1) * s + 1:s, j:j + (m2 - 1) * s2 + 1:s2]
              for i in range(kernel[0]) for j in range(kernel[1])]
    return slices[0] if len(slices) == 1 else jnp.concatenate(slices, axis=-1)


def _paint(x, kernel, strides, lows, fine):
    """One product gives the kernel that every pixel paints; shifted adds overlap them, a phase at a time."""
    kernel, lows = _trim(kernel, fine, x.shape[1:3], strides, lows)
    kh, kw, _, o = kernel.shape
    painted = x @ kernel.transpose(2, 0, 1, 3).reshape(x.shape[-1], -1)  # [b m m' kh*kw*o]
    # By a split, whose gradient is one concatenate: that of slices is a sum of padded arrays.
    taps = lax.split(painted, [o] * (kh * kw), axis=-1)

    def phase(r, cells):
        """Cell c of phase r is painted by tap t of coarse pixel c + (r + lo - t) / s."""
        first = both(lambda r, lo, s: (r + lo) % s, r, lows, strides)
        total = jnp.zeros((x.shape[0], *cells, o), x.dtype)
        for i in range(first[0], kh, strides[0]):
            for j in range(first[1], kw, strides[1]):
                shifts = both(lambda r, lo, t, s: (t - r - lo) // s, r, lows, (i, j), strides)
                rows, columns = both(lambda shift, n, m: (shift, n - m - shift, 0), shifts, cells, x.shape[1:3])
                total += lax.pad(taps[i * kw + j], jnp.zeros((), x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])
        return total

    return _interleaved(phase, strides, fine)


def _phases(x, kernel, strides, lows, fine):
    """Each phase of the fine image is a stride-1 convolution of `x` with every s-th tap.

    It computes no product that is cropped later, but cuts patches of `x` for each phase: it wins on small
    maps, where much is cropped.
    """
    return _interleaved(lambda r, cells: _phase(x, kernel, r, strides, lows, fine, cells), strides, fine)


def _interleaved(phase, strides, fine):
    """`[b n n' o]` from its phases `phase((r, r'), cells)`: fine pixels r, r + s, ..., padded to `cells`."""
    (s, s2), cells = strides, both(lambda n, s: -(-n // s), fine, strides)
    rows = [jnp.stack([phase((r, r2), cells) for r2 in range(s2)], axis=3) for r in range(s)]
    y = jnp.stack(rows, axis=2)  # [b cells s cells' s' o]
    return y.reshape(y.shape[0], cells[0] * s, cells[1] * s2, -1)[:, :fine[0], :fine[1]]


def _phase(x, kernel, phase, strides, lows, fine, cells):
    """Fine pixels r, r + s, ... in both axes, padded to `cells`."""
    # The flipped taps run with the coarse pixels, so that this is a plain convolution of them.
    first = both(lambda r, lo, s: (r + lo) % s, phase, lows, strides)
    taps = kernel[first[0]::strides[0], first[1]::strides[1]][::-1, ::-1]
    size = both(lambda r, n, s: len(range(r, n, s)), phase, fine, strides)
    if 0 in taps.shape or 0 in size:
        return jnp.zeros((x.shape[0], *cells, kernel.shape[-1]), x.dtype)
    low = both(lambda r, t, s, lo, k: k - 1 - (r + lo - t) // s,
               phase, first, strides, lows, taps.shape[:2])
    y = conv(x, taps, (1, 1), low, size)
    return jnp.pad(y, ((0, 0), (0, cells[0] - size[0]), (0, cells[1] - size[1]), (0, 0)))
