"""Writes metrics.npz: SSIM, PSNR and MSE of scikit-image on seeded images (extra `parity`).

python tests/golden/metrics.py
"""

import pathlib

import numpy as np
import skimage
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

WINDOWS = {11: 1.5, 7: 0.9}  # scikit-image derives the side from sigma: 2 int(3.5 sigma + .5) + 1


def images(rng, height, width, channels, data_range):
    """Smooth images and distorted copies: noise, contrast, shift, blur to a constant."""
    rows, columns = np.mgrid[:height, :width][..., None] / 6.0
    phase = rng.uniform(0, 6, (4, 1, 1, channels))
    x = 0.5 + 0.4 * np.sin(rows + phase) * np.cos(columns * (1 + phase / 6))
    y = x.copy()
    y[0] += 0.1 * rng.standard_normal(y[0].shape)
    y[1] = 0.3 + 0.4 * y[1]
    y[2] = np.roll(y[2], 2, axis=0)
    y[3] = y[3].mean()
    return tuple((np.clip(a, 0, 1) * data_range).astype(np.float32) for a in (x, y))


def main():
    rng = np.random.default_rng(0)
    out = {"versions": f"scikit-image {skimage.__version__}, numpy {np.__version__}"}
    for name, (shape, data_range) in {"gray": ((28, 28, 1), 1.0), "colour": ((20, 33, 3), 255.0)}.items():
        x, y = images(rng, *shape, data_range)
        out |= {f"{name}/x": x, f"{name}/y": y, f"{name}/data_range": data_range}
        for window, sigma in WINDOWS.items():
            out[f"{name}/ssim{window}"] = [
                structural_similarity(a, b, data_range=data_range, gaussian_weights=True, sigma=sigma,
                                      use_sample_covariance=False, channel_axis=-1)
                for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True)]
        pairs = list(zip(x, y, strict=True))
        out[f"{name}/psnr"] = [peak_signal_noise_ratio(a, b, data_range=data_range) for a, b in pairs]
        out[f"{name}/mse"] = [mean_squared_error(a, b) for a, b in pairs]
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
