"""Kaldi's log-mel features as ImageBind takes them of a clip of sound.

Frames of 25 ms every 10 ms, each without its mean, pre-emphasised and under a Hann window; 128 triangular filters from 20 Hz to
8 kHz over the power spectrum, and its logarithm. The filters and the window are transformers'.
"""

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, window_function

RATE = 16000
FRAME, _SHIFT, _FFT = 400, 160, 512
_LOWEST, _PREEMPHASIS, _FLOOR = 20.0, 0.97, 1.1920928955078125e-07
# Of the training data's log-mels, by ImageBind.
_MEAN, _SPREAD = -4.268, 9.138


def log_mel(clips: Tensor, *, mels: int = 128, length: int = 204) -> Tensor:
    """Normalised log-mels of clips, in float64 until the last step.

    Args:
        clips: [A, n] floating, mono at 16 kHz, without their mean. mels, length: what comes out.

    Returns:
        float32 [A, mels, length]. Of less than `length` frames the rest is 0 before it is normalised, as released; more are cut.

    Raises:
        ValueError: another shape, or less than one frame of 25 ms.
    """
    if clips.dim() != 2 or clips.shape[1] < FRAME:
        raise ValueError(f"clips must be [A, at least {FRAME} samples], given {list(clips.shape)}")
    window, filters = _tables(mels)
    # [A, T, 400], T at most `length`
    frames = clips.double().unfold(1, FRAME, _SHIFT)[:, :length]
    frames = frames - frames.mean(-1, keepdim=True)
    # What stands before the first sample is the first sample again.
    frames = frames - _PREEMPHASIS * torch.cat([frames[..., :1], frames[..., :-1]], -1)
    power = torch.fft.rfft(frames * window, _FFT).abs().square()
    found = (power @ filters).clamp_min(_FLOOR).log()
    return ((F.pad(found.mT, (0, length - found.shape[1])) - _MEAN) / _SPREAD).float()


@cache
def _tables(mels: int) -> tuple[Tensor, Tensor]:
    """The window [400] and the filters [257, mels]. Of 128 filters one is so narrow that it is empty, as everywhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filter", UserWarning)
        filters = mel_filter_bank(
            _FFT // 2 + 1, mels, _LOWEST, RATE / 2, RATE, mel_scale="kaldi", triangularize_in_mel_space=True
        )
    return torch.from_numpy(window_function(FRAME, "hann", periodic=False)), torch.from_numpy(filters)
