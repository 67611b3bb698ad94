"""The log-mel spectrogram that the firefly codec hears.

Source: fish-speech v1.5.0 (7902e40), fish_speech/utils/spectrogram.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_SILENCE = 1e-5
"""Magnitudes below it count as it, so that the logarithm stays finite."""


class LogMel(nn.Module):
    """(rows, n_samples) → (rows, mels, n_samples // hop_length). Four hops to a window, which is a frame of the FFT."""

    def __init__(self, sample_rate: int, hop_length: int, mels: int) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.hop_length = hop_length
        self.window_length = 4 * hop_length
        bank = mel_filter_bank(
            num_frequency_bins=self.window_length // 2 + 1,
            num_mel_filters=mels,
            min_frequency=0.0,
            max_frequency=sample_rate / 2,
            sampling_rate=sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        # On the CPU even where parameters are made on the meta device: these come with no checkpoint.
        self.register_buffer("bank", torch.tensor(bank.T, dtype=torch.float32, device="cpu"), persistent=False)
        self.register_buffer("window", torch.hann_window(self.window_length, device="cpu"), persistent=False)

    @property
    def shortest(self) -> int:
        """Samples without which there is nothing to reflect at the edges."""
        return self.window_length // 2

    def forward(self, audio: Tensor) -> Tensor:
        margin = (self.window_length - self.hop_length) // 2
        padded = pad(audio[:, None], (margin, margin), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded,
            self.window_length,
            hop_length=self.hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-6)
        return torch.log((self.bank @ magnitude).clamp(min=_SILENCE))
