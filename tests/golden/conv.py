"""PyTorch's ConvTranspose2d and Conv2d on seeded inputs, frozen for `tests/test_conv.py`.

    python tests/golden/conv.py      # needs torch; writes tests/golden/conv.npz

Cases are `kernel, stride, padding, output_padding`; arrays are in PyTorch's layout (channels first).
"""

from pathlib import Path

import numpy as np
import torch

TRANSPOSED = [(3, 2, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0), (5, 3, 0, 2), (2, 3, 0, 1), (3, 2, 0, 1), (1, 2, 0, 0),
              (5, 1, 2, 0)]
PLAIN = [(4, 2, 1), (3, 1, 1), (5, 3, 2), (1, 2, 0)]

if __name__ == "__main__":
    torch.manual_seed(0)
    arrays = {}
    for k, s, p, op in TRANSPOSED:
        layer = torch.nn.ConvTranspose2d(3, 2, k, stride=s, padding=p, output_padding=op)
        x = torch.randn(2, 3, 4, 5)
        arrays |= {f"transposed_{k}{s}{p}{op}_{name}": value.detach().numpy() for name, value in
                   dict(x=x, weight=layer.weight, bias=layer.bias, y=layer(x)).items()}
    for k, s, p in PLAIN:
        layer = torch.nn.Conv2d(3, 2, k, stride=s, padding=p)
        x = torch.randn(2, 3, 7, 6)
        arrays |= {f"plain_{k}{s}{p}_{name}": value.detach().numpy() for name, value in
                   dict(x=x, weight=layer.weight, bias=layer.bias, y=layer(x)).items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
