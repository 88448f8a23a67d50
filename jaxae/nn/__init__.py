"""Network bodies as thin Flax linen modules.

Inputs have a leading batch axis, images are channels last, parameters are float32, `dtype` is that of the
computation, and nothing here normalises over the batch. Convolutions choose the algorithm that suits the
platform and give the same numbers on each; as pure functions they are `jaxae.nn.conv.conv` and
`conv_transpose`. None of these bodies knows a loss or a latent: systems put them around a bottleneck.
"""

from jaxae.nn.attention import SelfAttention, TransformerBlock
from jaxae.nn.classifier import ConvClassifier
from jaxae.nn.conv import Conv, ConvTranspose
from jaxae.nn.flows import IAF, MADE, CouplingFlow, Flow, PlanarFlow
from jaxae.nn.icnn import ICNN, BrenierMap, InverseLipschitzDecoder, smallest_singular_value
from jaxae.nn.mlp import MLP
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder
from jaxae.nn.pixelcnn import PixelCNN
from jaxae.nn.resnet import (
    ConvDecoder,
    ConvEncoder,
    ImageDecoder,
    ImageEncoder,
    ResidualBlock,
    ResidualStack,
    check_divisible,
)

__all__ = [
    "BrenierMap", "Conv", "ConvClassifier", "ConvDecoder", "ConvEncoder", "ConvTranspose", "CouplingFlow", "Flow",
    "IAF", "ICNN", "ImageDecoder", "ImageEncoder", "InverseLipschitzDecoder", "MADE", "MLP", "MNISTConvDecoder",
    "MNISTConvEncoder", "PixelCNN", "PlanarFlow", "ResidualBlock", "ResidualStack", "SelfAttention", "TransformerBlock",
    "check_divisible", "smallest_singular_value",
]
