"""Waveforms: synthetic and recorded clips, their networks, spectra, errors and figures."""

import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from ml_collections import ConfigDict

from jaxae import data, losses, metrics
from jaxae.data.drums_and_bass import STEP
from jaxae.data.wav import write_wav
from jaxae.nn.waveform import DilatedBlock, WaveformDecoder, WaveformEncoder
from jaxae.systems import figures, waveform_error
from jaxae.systems.latent import separation
from jaxae.train.figures import write_figures

KEY = jax.random.key(0)


# ---------------------------------------------------------------------------------------------------------- the data


def test_clips_are_drums_and_bass_that_keep_to_the_grid():
    train, test = data.load(dict(source="drums_and_bass", num_train=60, num_test=10, seed=1))[:2]
    x, label = train[:]["x"][..., 0], train[:]["label"]
    assert x.shape == (60, 4096) and np.abs(x).max() <= 1 and label.sum() == 30
    assert train.info["label_names"] == ("drums", "bass") and train.info["sample_rate"] == 4000
    again, other = (data.load(dict(source="drums_and_bass", num_train=60, num_test=10, seed=s)).train for s in (1, 2))
    np.testing.assert_array_equal(again[:]["x"], train[:]["x"])
    assert np.abs(other[:]["x"] - train[:]["x"]).max() > 0.1 and np.abs(test[:10]["x"][..., 0] - x[:10]).max() > 0.1
    # What happens between two steps of the grid is a decay: hits and notes begin on the grid alone.
    edges = np.abs(np.diff(x[label == 0])).reshape(-1)[:30 * 4095].reshape(30, 4095)
    jumps = np.argwhere(edges > 0.35)[:, 1]
    assert len(jumps) and ((jumps % STEP < 150) | (jumps % STEP == STEP - 1)).all()


def test_notes_of_the_bass_have_the_pitches_of_its_scale():
    x = data.load(dict(source="drums_and_bass", num_train=40, num_test=2)).train[:]["x"][1::2, :, 0]
    scale = 55.0 * 2.0 ** (np.array([0, 3, 5, 7, 10, 12, 15, 17, 19, 22]) / 12)
    found = []
    for row in x.reshape(-1, 2048)[:, :1024].reshape(-1, 2, 512):  # single steps
        for step in row:
            if np.abs(step).max() > 0.1:
                spectrum = np.abs(np.fft.rfft(step * np.hanning(512), 8192))
                found.append(np.argmax(spectrum) * 4000 / 8192)
    # The lowest harmonic is the loudest; a window of an eighth of a second blurs it by some hertz.
    assert len(found) > 30 and np.median([np.abs(f / scale - 1).min() for f in found]) < 0.03


def test_wav_files_become_clips_with_the_names_of_their_folders(tmp_path):
    sounds = {name: np.random.default_rng(i).uniform(-0.9, 0.9, 250) for i, name in enumerate(("bass", "drums"))}
    for name, x in sounds.items():
        for k in range(2):
            write_wav(tmp_path / name / f"{k}.wav", (-1) ** k * x, 8000)
    dataset = data.load(dict(source=f"wav:{tmp_path}", length=100, test_fraction=0.25))
    assert (len(dataset.train), len(dataset.test)) == (6, 2) and dataset.train.info["sample_rate"] == 8000
    rows = [*dataset.train[:]["x"], *dataset.test[:]["x"]]
    assert sorted([*dataset.train[:]["label"], *dataset.test[:]["label"]]) == [0] * 4 + [1] * 4
    wanted = np.stack([sign * x[s:s + 100] for x in sounds.values() for sign in (1, -1) for s in (0, 100)])
    error = np.abs(np.stack(rows)[:, None, :, 0] - wanted).max(-1)  # every clip of a file, and nothing of its end
    assert sorted(error.argmin(1)) == [*range(8)] and error.min(1).max() < 1e-4
    for name in ("2.wav", "3.wav"):
        with wave.open(str(tmp_path / "drums" / name), "wb") as file:  # two channels, and another rate
            file.setparams((2, 2, 4000, 0, "NONE", ""))
            file.writeframes(np.array([[1000, 3000]] * 100, "<i2").tobytes())
    with pytest.raises(data.DataError, match="one rate"):
        data.load(dict(source=f"wav:{tmp_path}", length=100))
    for name in ("0", "1"):
        (tmp_path / "drums" / f"{name}.wav").unlink()
    mean = data.load(dict(source=f"wav:{tmp_path / 'drums'}", length=50, test_fraction=0.5)).train[:]["x"]
    np.testing.assert_allclose(mean, np.full((2, 50, 1), 2000 / 32768))
    with pytest.raises(data.DataError, match="data.length"):
        data.load(dict(source=f"wav:{tmp_path / 'bass'}", length=1000))


@pytest.mark.parametrize("x", [np.float32(np.random.default_rng(0).normal(size=(12, 16, 1)))])
def test_waveforms_of_any_amplitude_pass_the_checks(x):
    assert data.from_arrays(3 * x).train.spec["x"].shape == (16, 1)
    with pytest.raises(data.DataError, match="augment"):
        data.from_arrays(x, augment=("flip",))


# ------------------------------------------------------------------------------------------------- errors and spectra


def test_si_sdr_has_its_closed_forms():
    rng = np.random.default_rng(0)
    s, n = rng.normal(size=(2, 3, 4000))
    s, n = s - s.mean(-1, keepdims=True), n - n.mean(-1, keepdims=True)
    n -= (n * s).sum(-1, keepdims=True) / np.square(s).sum(-1, keepdims=True) * s  # at right angles
    n *= np.sqrt(np.square(s).sum(-1) / np.square(n).sum(-1))[:, None]  # as strong as s
    run = jax.jit(metrics.si_sdr)
    levels = np.array([0.5, 0.1, 0.01])
    np.testing.assert_allclose(run(s, s + levels[:, None] * n), -20 * np.log10(levels), atol=1e-3)
    for scale in (1e-3, -7.0):  # a factor on either changes nothing, nor does an offset
        np.testing.assert_allclose(run(s, scale * (s + 0.1 * n)), 20.0, atol=1e-3)
        np.testing.assert_allclose(run(scale * s, s + 0.1 * n + 5), 20.0, atol=2e-2)
    angle = np.array([0.2, 0.8, 1.4])
    np.testing.assert_allclose(run(s, np.cos(angle)[:, None] * s + np.sin(angle)[:, None] * n),
                               20 * np.log10(1 / np.tan(angle)), atol=1e-2)
    mixed = jax.jit(lambda a, b: metrics.si_sdr(a, (a + b) / 2))(s, n)
    np.testing.assert_allclose(mixed, 0.0, atol=1e-3)  # of two sources as strong as one another, whatever the factor
    assert np.isfinite(run(np.zeros((2, 9)), np.ones((2, 9)))).all()
    assert (run(s, s) > 60).all() and (run(s, n) < -60).all()


@pytest.mark.parametrize("size, hop, window", [(32, 8, 32), (32, 7, 20)])
def test_spectrogram_is_the_fourier_sum_of_windowed_frames(size, hop, window):
    x = np.random.default_rng(0).normal(size=(2, 61)).astype(np.float32)
    found = jax.jit(lambda x: losses.spectrogram(x, size, hop, window))(x)
    padded = np.pad(x.astype(float), ((0, 0), (size // 2, size // 2)), mode="reflect")
    taps = np.zeros(size)
    taps[(size - window) // 2:][:window] = np.sin(np.pi * np.arange(window) / window) ** 2
    for s in range(found.shape[-1]):
        frame = padded[:, s * hop:s * hop + size] * taps
        for f in range(size // 2 + 1):
            want = np.abs((frame * np.exp(-2j * np.pi * f * np.arange(size) / size)).sum(-1))
            np.testing.assert_allclose(found[:, f, s], want, atol=1e-4)
    assert found.shape == (2, size // 2 + 1, 1 + 61 // hop)


def test_spectral_distance_is_blind_to_phase_and_linear_in_scale_with_a_gradient_at_silence():
    rng, resolutions = np.random.default_rng(0), ((32, 8, 24), (16, 4, 16))
    x, y = jnp.asarray(rng.normal(size=(2, 3, 80)), jnp.float32)
    distance = jax.jit(lambda x, y: losses.spectral_distance(x, y, resolutions))
    np.testing.assert_allclose(distance(x, -x), 0, atol=1e-4)
    np.testing.assert_allclose(distance(x, 3 * x), 2 * distance(x, 0 * x), rtol=1e-4)
    np.testing.assert_allclose(distance(5 * x, 5 * y), 5 * distance(x, y), rtol=1e-4)
    each = [np.sqrt(np.square(losses.spectrogram(x, *r) - losses.spectrogram(y, *r)).sum((1, 2))) for r in resolutions]
    np.testing.assert_allclose(distance(x, y), np.mean(each, 0), rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda y: distance(x, y).sum()))
    assert np.isfinite(gradient(jnp.zeros_like(x))).all() and np.isfinite(gradient(x)).all()
    step = jnp.asarray(1e-2 * rng.normal(size=y.shape), jnp.float32)
    slope = (distance(x, y + step).sum() - distance(x, y - step).sum()) / 2
    np.testing.assert_allclose((gradient(y) * step).sum(), slope, rtol=0.02)


def test_the_error_of_waveforms_is_the_weighted_sum_of_its_parts():
    model = ConfigDict(waveform_error.defaults() | dict(
        likelihood="mse", spectral=0.3, resolutions=((16, 4, 16),), largest=0.5, largest_samples=3, sample_weight=2.0))
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 40, 1)), jnp.float32)
    value, found = jax.jit(waveform_error.waveform_error(model, (40, 1)))(x, y)
    squares = np.square(np.asarray(x - y))[..., 0]
    spectra = losses.spectral_distance(x[..., 0], y[..., 0], ((16, 4, 16),))
    want = 2 * squares.mean(1) + 0.5 * np.sort(squares)[:, -3:].mean(1) + 0.3 * spectra
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(found["reconstruction"], squares.mean(1), rtol=1e-5)
    assert waveform_error.waveform_error(ConfigDict(waveform_error.defaults()), (8, 8, 1)) is None
    for shape, message in (((28, 28, 1), "are for waveforms"), ((8, 1), "too short")):
        with pytest.raises(ValueError, match=message):
            waveform_error.waveform_error(model, shape)


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("t", [27, 32])
def test_a_dilated_block_is_the_convolution_with_holes(t):
    x = jax.random.normal(KEY, (2, t, 3))
    block = DilatedBlock(4, dilation=9)
    params = jax.jit(block.init)(KEY, x)["params"]
    taps, last = params["conv0"]["kernel"][:, 0], params["conv1"]["kernel"][0, 0]
    y = lax.conv_general_dilated(jax.nn.relu(x), taps, (1,), [(9, 9)], rhs_dilation=(9,),
                                 dimension_numbers=("NHC", "HIO", "NHC"))
    want = x + jax.nn.relu(y) @ last
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), want, atol=1e-5)


def test_encoder_and_decoder_divide_and_multiply_by_the_hop_and_move_with_the_sound():
    net = dict(levels=((2,), (3,)), width=4, between=5, blocks=1)
    encoder, decoder = WaveformEncoder(**net, out=6), WaveformDecoder(**net)
    x = jnp.zeros((2, 120, 1)).at[0, 60, 0].set(1.0).at[1, 72, 0].set(1.0)  # two hops of six samples later

    @jax.jit
    def run(x):
        z, _ = encoder.init_with_output(KEY, x)
        return z, decoder.init_with_output(KEY, z)[0]

    z, y = run(x)
    assert z.shape == (2, 20, 6) and y.shape == x.shape
    np.testing.assert_allclose(z[1, 4:-2], z[0, 2:-4], atol=1e-5)
    np.testing.assert_allclose(y[1, 24:-24], y[0, 12:-36], atol=1e-5)
    assert np.abs(z[0] - z[1]).max() > 1e-3
    with pytest.raises(ValueError, match="no multiple of the hop 6"):
        encoder.init(KEY, x[:, :-1])


# ------------------------------------------------------------------------------------------- separation and figures


def test_lists_of_a_large_codebook_hold_the_pairs_of_the_same_examples_as_a_table():
    """Signs are their own codes: of a mean of two signs it is certain which one they were where they agree."""
    x = np.sign(np.random.default_rng(0).normal(size=(30, 6, 1))).astype(np.float32)

    def encode(x):
        return jnp.int32(jnp.sign(x[..., 0])) + 1

    found = separation.count_mixture_pairs(encode, jnp.asarray(x), 3, np.random.default_rng(0), 4, 10)
    assert found.counts.sum() == 4 * 30 * 6 * 2
    assert {tuple(c) for c in found.coords.T.tolist()} == {(0, 0, 0), (1, 0, 2), (1, 2, 0), (2, 2, 2)}
    assert found.counts[1] == found.counts[2]


def test_spectra_show_time_to_the_right_and_pitch_upwards(tmp_path):
    t = np.arange(1024)
    low, high = np.sin(2 * np.pi * t / 64), np.sin(2 * np.pi * t / 8) * (t > 512)
    found = np.asarray(jax.jit(figures.spectra)(jnp.asarray(np.stack([low, high])[..., None], jnp.float32)))[..., 0]
    rows = found.mean(2).argmax(1)
    assert found.min() >= 0 and found.max() <= 1 and rows[1] < rows[0] and rows[0] > 0.8 * found.shape[1]
    assert found[1, rows[1], -20:].min() > found[1, rows[1], :20].max()
    shown = figures.comparison(jnp.ones((3, 256, 1)), jnp.zeros((3, 256, 1)))
    paths, pictures = write_figures(tmp_path, 5, shown)
    assert {p.name for p in paths} == {"reconstructions_000005.png", "reconstructions_waveforms_000005.png"}
    assert pictures["reconstructions_waveforms"].std() > 0.01
