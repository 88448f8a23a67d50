"""PyTorch's side of `train.py`: pythae's own loop, and loops that are as fast as PyTorch can be made to run.

`build(case, loop, ...)` returns `advance(steps) -> seconds`. The loops:

- `pythae`: `pythae.trainers.BaseTrainer`, its epochs timed from the first to the last, without progress bar;
- `bare`: the same model object, batches sliced from one tensor, PyTorch's default Adam, no metrics;
- `fused`: `bare` with Adam's one-kernel form, and channels-last memory for images;
- `compiled`: `fused` with the model through `torch.compile`.
"""

import logging
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

LOOPS = ("pythae", "bare", "fused", "compiled")


def build(case: str, loop: str, x: np.ndarray, batch: int, rate: float, latent: int) -> Callable[[int], float]:
    """A training run that can be continued, `advance(steps) -> seconds`.

    Args:
      case: 'mlp' or 'conv'.
      loop: a name of `LOOPS`.
      x: images `[n h w 1]` in [0, 1], float32.
      batch, rate, latent: batch size, learning rate, latent dimensions.
    """
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    shape = tuple(images.shape[1:])
    if loop == "pythae":
        # A new model for every turn: its trainer starts with a new optimizer, and Adam's first updates, of full size
        # in every parameter, drive a trained network with batch normalisation to NaN.
        return _pythae(lambda: _model(case, latent, shape), images, batch, rate)
    return _bare(_model(case, latent, shape), images, batch, rate, fused=loop != "bare", compiled=loop == "compiled",
                 channels_last=loop != "bare" and case == "conv")


def _model(case, latent, shape):
    from pythae.models import VAE, VAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST

    config = VAEConfig(input_dim=shape, latent_dim=latent, reconstruction_loss="bce")
    if case == "mlp":
        return VAE(config)  # its default networks: one hidden layer of 512
    return VAE(config, encoder=Encoder_Conv_VAE_MNIST(config), decoder=Decoder_Conv_AE_MNIST(config))


def _pythae(make_model, images, batch, rate):
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    logging.disable(logging.INFO)

    class Clock(TrainingCallback):
        started = stopped = None

        def on_epoch_begin(self, training_config, **kwargs):
            self.started = self.started or time.perf_counter()

        def on_epoch_end(self, training_config, **kwargs):
            self.stopped = time.perf_counter()

    class Quiet(BaseTrainer):
        def _setup_callbacks(self):  # without the bars and the console
            self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)

    def advance(steps):
        # Whole epochs of the data, or one epoch of as many examples as the steps need.
        rows = min(steps * batch, len(images))
        epochs, rest = divmod(steps * batch, rows)
        if rest or rows % batch:
            raise ValueError(f"{steps} steps of {batch} are not whole epochs of {rows} examples")
        clock = Clock()
        with tempfile.TemporaryDirectory() as directory:  # it saves the best model at the end, after the clock
            config = BaseTrainerConfig(output_dir=directory, num_epochs=epochs, per_device_train_batch_size=batch,
                                       learning_rate=rate, optimizer_cls="Adam")
            Quiet(make_model(), BaseDataset(images[:rows], torch.zeros(rows)), None, config, [clock]).train()
        return clock.stopped - clock.started

    return advance


def _bare(model, images, batch, rate, fused, compiled, channels_last):
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=fused or None)
    model.train()

    def loss_of(x):
        return model({"data": x})["loss"]

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def advance(steps):
        order = None
        start = time.perf_counter()
        for step in range(steps):
            i = step % (len(images) // batch)
            order = order if i else torch.randperm(len(images))
            loss = loss_of(images[order[i * batch:(i + 1) * batch]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return time.perf_counter() - start

    return advance


def matmul(n: int) -> Callable[[], float]:
    """A function that multiplies two `[n n]` float32 matrices once and returns its seconds."""
    a = torch.randn(n, n)
    a @ a

    def once():
        start = time.perf_counter()
        a @ a
        return time.perf_counter() - start

    return once


def versions() -> dict[str, str]:
    """What ran."""
    from importlib.metadata import version

    return {"torch": torch.__version__, "pythae": version("pythae")}
