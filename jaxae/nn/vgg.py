"""Feature maps of VGG16, with weights that the user has: none ship with the library."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxae.nn.conv import conv

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels, by stage
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, by colour


def read_vgg16(path: str | Path, stages: Sequence[Sequence[int]] = VGG16) -> dict[str, np.ndarray]:
    """The weights of an .npz file as a dict of float32 arrays, checked.

    Names, for the j-th convolution of stage i (both from 1): `conv{i}_{j}/kernel [3 3 in out]` and
    `conv{i}_{j}/bias [out]`, which torchvision's `vgg16().features` has as `weight.transpose(2, 3, 1, 0)` and `bias` of
    its layers 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28. Where all of `lin0 [64]`, `lin1 [128]`, ... are there,
    they weigh the channels of the stages (those of the LPIPS package's `lin.pth`). Other names are left out.

    Args:
      path: of the file.
      stages: channels of each convolution of each stage.

    Raises:
      ValueError: for a file that is not there, or lacks a name, or has an array of another shape, or a negative weight.
    """
    shapes, channels = {}, 3
    for i, widths in enumerate(stages, 1):
        for j, width in enumerate(widths, 1):
            shapes |= {f"conv{i}_{j}/kernel": (3, 3, channels, width), f"conv{i}_{j}/bias": (width,)}
            channels = width
    lines = {f"lin{i}": (widths[-1],) for i, widths in enumerate(stages)}
    if not Path(path).is_file():
        raise ValueError(f"no weights of VGG16 at {str(path)!r}: write an .npz with {', '.join(list(shapes)[:2])}, ... "
                         f"as jaxae.nn.vgg.read_vgg16 says, or set model.perceptual=0")
    with np.load(path) as file:
        wanted = shapes | (lines if all(name in file.files for name in lines) else {})
        found = {name: np.asarray(file[name], np.float32) for name in wanted if name in file.files}
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            what = f"has {name} of shape {found[name].shape}" if name in found else f"has no {name}"
            raise ValueError(f"{str(path)!r} {what}: VGG16 needs {name} {list(shape)}, as jaxae.nn.vgg.read_vgg16 says")
        if name in lines and found[name].min() < 0:
            raise ValueError(f"{str(path)!r} has negative weights in {name}: a distance needs weights of 0 or more")
    return found


def vgg16_maps(weights: Mapping[str, ArrayLike], x: Float[Array, "n h w c"]) -> list[Float[Array, "n ..."]]:
    """The five maps before VGG16's poolings: relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, float32.

    Stage i is 3x3 convolutions with ReLU on maps of 1/2^(i-1) of the image's side, halved by the maximum of squares of
    two; an odd last row or column is left out. Colours are normalised by ImageNet's mean and standard deviation.

    Args:
      weights: as of `read_vgg16`; the stages are those it names.
      x: images in [0, 1] of three colours, or of one, which then stands for all three; sides of 16 or more.

    Raises:
      ValueError: for other images.

    Reference: Simonyan, Zisserman, 'Very deep convolutional networks for large-scale image recognition', 2014,
    arXiv 1409.1556.
    """
    stages = sorted({name.split("/")[0] for name in weights if name.endswith("/kernel")}, key=_place)
    last = _place(stages[-1])[0]
    if x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < 2 ** (last - 1):
        raise ValueError(f"VGG16 takes images [n h w 3] or [n h w 1] with sides of {2 ** (last - 1)} or more, not "
                         f"{list(x.shape)}")
    x = (x.astype(jnp.float32) - jnp.array(_MEAN)) / jnp.array(_STD)
    maps = []
    for i in range(1, last + 1):
        if i > 1:
            x = nn.max_pool(x, (2, 2), (2, 2))
        for name in (name for name in stages if _place(name)[0] == i):
            x = nn.relu(conv(x, jnp.asarray(weights[f"{name}/kernel"])) + jnp.asarray(weights[f"{name}/bias"]))
        maps.append(x)
    return maps


def stage_weights(weights: Mapping[str, ArrayLike]) -> list[Array] | None:
    """The weights of the stages' channels, for `jaxae.losses.perceptual.feature_distance`; None where there are none.
    """
    return [jnp.asarray(weights[f"lin{i}"]) for i in range(len(weights)) if f"lin{i}" in weights] or None


def _place(name):
    """Stage and number of `conv{i}_{j}`."""
    return tuple(int(part) for part in name.removeprefix("conv").split("_"))
