"""Error of reconstructed images: mean squared error, peak signal-to-noise ratio, structural similarity; sharpness."""

import itertools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def mse(x: Float[Array, "n ..."], y: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Mean squared error over the elements of each example, `[n]`, in squared data units."""
    _check_same_shape(x, y)
    return jnp.square(x.astype(jnp.float32) - y).reshape(x.shape[0], -1).mean(-1)


def psnr(x: Float[Array, "n ..."], y: Float[Array, "n ..."], data_range: float = 1.0) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio 10 log10(data_range^2 / mse), in decibels; infinite for equal images.

    Average it over examples as it is: the ratio of the averaged error is another, smaller number.

    Args:
      x: images, or data of any shape, in [0, data_range].
      y: the same shape.
      data_range: distance between the smallest and the largest possible value.

    Returns:
      Decibels of each example `[n]`.
    """
    return 20.0 * np.log10(data_range) - 10.0 * jnp.log10(mse(x, y))


def permutation_psnr(sources: Float[Array, "n s ..."], estimates: Float[Array, "n s ..."],
                     data_range: float = 1.0) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio of separated sources in the order that fits best, averaged over the sources.

        max over permutations pi of mean_i psnr(sources_i, estimates_pi(i))

    Args:
      sources: the true ones, in [0, data_range].
      estimates: the same shape, in any order; the order is chosen for each example.
      data_range: distance between the smallest and the largest possible value.

    Returns:
      Decibels of each example `[n]`.

    Raises:
      ValueError: for shapes that differ, or more than 7 sources (the permutations are enumerated).

    >>> import jax.numpy as jnp
    >>> x = jnp.stack([jnp.zeros((1, 4)), jnp.ones((1, 4))], 1)
    >>> float(permutation_psnr(x, 0.1 + 0.8 * x[:, ::-1])[0].round(3))  # an error of 0.1, in the other order
    20.0

    Reference: Yu, Kolbaek, Tan and Jensen, 'Permutation invariant training of deep models for speaker-independent
    multi-talker speech separation', 2017, arXiv 1607.00325.
    """
    _check_same_shape(sources, estimates)
    count = sources.shape[1]
    if count > 7:
        raise ValueError(f"permutation_psnr tries every order of the sources: 7 at most, got {count}")
    each = jnp.stack([jnp.stack([psnr(sources[:, i], estimates[:, j], data_range) for j in range(count)], -1)
                      for i in range(count)], 1)  # [n s s]
    orders = np.array(list(itertools.permutations(range(count))))
    return each[:, np.arange(count), orders].mean(-1).max(-1)


def ssim(x: Float[Array, "n h w c"], y: Float[Array, "n h w c"], data_range: float = 1.0, window: int = 11,
         sigma: float = 1.5) -> Float[Array, " n"]:
    """Structural similarity, averaged over the valid positions of a Gaussian window and over the channels.

    (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx^2 + sy^2 + C2)) with local means m, variances s^2
    and covariance sxy under the window's weights (which sum to one: no sample correction),
    C1 = (.01 data_range)^2 and C2 = (.03 data_range)^2.

    This is the published index, and scikit-image's with `gaussian_weights=True,
    use_sample_covariance=False`. Implementations that pad the border (torchmetrics) or weight uniformly give
    other numbers.

    Args:
      x: images in [0, data_range].
      y: images of the same shape.
      data_range: distance between the smallest and the largest possible value.
      window: side of the window in pixels, odd. 11 is the published one.
      sigma: standard deviation of the window in pixels.

    Returns:
      The index of each example `[n]`, in [-1, 1]; 1 for equal images.

    Raises:
      ValueError: for shapes that differ, an even window, or images smaller than the window.

    >>> import jax.numpy as jnp
    >>> x = jnp.zeros((2, 16, 16, 1)).at[:, 4:9].set(1.0)
    >>> ssim(x, x).tolist()
    [1.0, 1.0]

    Reference: Wang, Bovik, Sheikh, Simoncelli, 'Image quality assessment: from error visibility to structural
    similarity', IEEE Transactions on Image Processing, 2004.
    """
    _check_same_shape(x, y)
    side = min(x.shape[1:3])
    if window % 2 == 0:
        raise ValueError(f"ssim wants an odd window, such as 11 or 7; got {window}")
    if side < window:
        fitting = 7 if side >= 7 else side - 1 + side % 2
        raise ValueError(f"images of {x.shape[1]}x{x.shape[2]} pixels are smaller than the window {window}: "
                         f"use window={fitting}, and say so beside the number")
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # Variances are differences of second moments: taken about each image's own mean they lose no digits.
    x_shift, y_shift = x.mean((1, 2), keepdims=True), y.mean((1, 2), keepdims=True)
    dx, dy = x - x_shift, y - y_shift
    blurred = _blur(jnp.concatenate([dx, dy, dx * dx, dy * dy, dx * dy], -1), window, sigma)
    mean_dx, mean_dy, square_x, square_y, product = jnp.split(blurred, 5, -1)
    var_x, var_y, cov = square_x - mean_dx**2, square_y - mean_dy**2, product - mean_dx * mean_dy
    mean_x, mean_y = mean_dx + x_shift, mean_dy + y_shift
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2.0 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def laplacian_sharpness(images: Float[Array, "n h w c"]) -> Float[Array, " n"]:
    """Variance of the Laplacian over an image's inner pixels, averaged over its channels: large for sharp edges.

    The Laplacian is x[i-1, j] + x[i+1, j] + x[i, j-1] + x[i, j+1] - 4 x[i, j]. It has no scale of its own: compare
    with the same number of real images of the same size.

    Args:
      images: at least 3x3 pixels.

    Returns:
      Of each image `[n]`, in squared data units.

    Raises:
      ValueError: for smaller images.

    >>> import jax.numpy as jnp
    >>> float(laplacian_sharpness(jnp.indices((4, 4)).sum(0)[None, :, :, None] * 0.5)[0])  # a ramp has no edges
    0.0

    Reference: Pech-Pacheco, Cristobal, Chamorro-Martinez, Fernandez-Valdivia, 'Diatom autofocusing in brightfield
    microscopy: a comparative study', 2000.
    """
    if min(images.shape[1:3]) < 3:
        raise ValueError(f"a Laplacian needs images of at least 3x3 pixels; got {images.shape[1]}x{images.shape[2]}")
    x = images.astype(jnp.float32)
    rows, columns = x[:, :, 1:-1], x[:, 1:-1]
    laplacian = rows[:, :-2] + rows[:, 2:] + columns[:, :, :-2] + columns[:, :, 2:] - 4.0 * x[:, 1:-1, 1:-1]
    return laplacian.var((1, 2)).mean(-1)


def _check_same_shape(x, y):
    if x.shape != y.shape:
        raise ValueError(f"the two batches must have one shape; got {x.shape} and {y.shape}")


def _blur(x, window, sigma):
    """Gaussian average over the valid region: [n h w c] -> [n h-window+1 w-window+1 c]."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / sigma) ** 2)
    taps = taps / taps.sum()
    for axis in (1, 2):  # separable; shifted slices fuse into one pass, and need no matmul precision
        size = x.shape[axis] - window + 1
        x = sum(float(t) * lax.slice_in_dim(x, i, i + size, axis=axis) for i, t in enumerate(taps))
    return x
