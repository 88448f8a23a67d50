"""Network bodies as thin Flax linen modules.

Inputs have a leading batch axis, images are channels last, parameters are float32, `dtype` is that of the
computation, and nothing here normalises over the batch. Convolutions choose the algorithm that suits the
platform and give the same numbers on each; as pure functions they are `jaxae.nn.conv.conv` and
`conv_transpose`. None of these bodies knows a loss or a latent: systems put them around a bottleneck.
"""

from jaxae.nn.attention import CrossAttention, GatedMLP, SelfAttention, TransformerBlock
from jaxae.nn.attentive_pool import MultiheadPool, multihead_pool
from jaxae.nn.capture import capture
from jaxae.nn.classifier import ConvClassifier
from jaxae.nn.conv import Conv, ConvTranspose
from jaxae.nn.dropout import dropout
from jaxae.nn.flows import IAF, MADE, CouplingFlow, Flow, PlanarFlow
from jaxae.nn.icnn import ICNN, BrenierMap, InverseLipschitzDecoder, smallest_singular_value
from jaxae.nn.lstm import LSTMDecoder, LSTMEncoder
from jaxae.nn.mlp import MLP
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder
from jaxae.nn.patch import PatchGAN
from jaxae.nn.pixelcnn import PixelCNN
from jaxae.nn.pooled import PooledDecoder, PooledEncoder
from jaxae.nn.resnet import (
    ConvDecoder,
    ConvEncoder,
    ImageDecoder,
    ImageEncoder,
    ResidualBlock,
    ResidualStack,
)
from jaxae.nn.resnet_v2 import PreActivationBlock, PreActivationUpBlock, ResNetV2Decoder, ResNetV2Encoder
from jaxae.nn.rotary import rotary_angles, rotate_pairs
from jaxae.nn.seq2seq import Seq2Seq
from jaxae.nn.sequences import beam_search, roll_out, sequence_mask, shifted
from jaxae.nn.strided import StridedDecoder, StridedEncoder
from jaxae.nn.style import InstanceNormEncoder, StyleBlock, StyleDecoder
from jaxae.nn.taming import MapAttention, TamingBlock, TamingDecoder, TamingEncoder
from jaxae.nn.unet import UNet
from jaxae.nn.vgg import read_vgg16, stage_weights, vgg16_maps
from jaxae.nn.waveform import DilatedBlock, WaveformDecoder, WaveformEncoder
from jaxae.resizing import check_divisible

__all__ = [
    "BrenierMap", "Conv", "ConvClassifier", "ConvDecoder", "ConvEncoder", "ConvTranspose", "CouplingFlow",
    "CrossAttention", "DilatedBlock", "Flow", "GatedMLP", "IAF", "ICNN", "ImageDecoder", "ImageEncoder",
    "InstanceNormEncoder", "InverseLipschitzDecoder", "LSTMDecoder", "LSTMEncoder", "MADE", "MLP",
    "MNISTConvDecoder", "MNISTConvEncoder", "MapAttention", "MultiheadPool", "PatchGAN", "PixelCNN", "PlanarFlow",
    "PooledDecoder", "PooledEncoder", "PreActivationBlock", "PreActivationUpBlock", "ResNetV2Decoder",
    "ResNetV2Encoder", "ResidualBlock", "ResidualStack", "SelfAttention", "Seq2Seq", "StridedDecoder",
    "StridedEncoder", "StyleBlock", "StyleDecoder", "TamingBlock", "TamingDecoder", "TamingEncoder",
    "TransformerBlock", "UNet", "WaveformDecoder", "WaveformEncoder", "beam_search", "capture", "check_divisible",
    "dropout", "multihead_pool", "read_vgg16", "roll_out", "rotary_angles", "rotate_pairs", "sequence_mask",
    "shifted", "smallest_singular_value", "stage_weights", "vgg16_maps",
]
