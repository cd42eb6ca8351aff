"""Text to train on: chapter I of Alice's Adventures in Wonderland as bytes, read as a ring.

The text by Lewis Carroll (1865), up to "finished it off", is in the public domain. A sequence that is longer
than it reads it again from the start.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

TEXT = Path(__file__).with_name("alice.txt")


class ByteText:
    """Batches of a text: each token is a byte, each sequence starts at random."""

    def __init__(self, device: torch.device | str, seed: int) -> None:
        self._bytes = torch.tensor(list(TEXT.read_bytes()), device=device)
        self._generator = torch.Generator(device=device).manual_seed(seed)

    def batch(self, batch: int, seq_len: int) -> tuple[Tensor, Tensor]:
        """Return tokens and the tokens that follow them, int64 [batch, seq_len]."""
        length, device = len(self._bytes), self._bytes.device
        starts = torch.randint(length, (batch, 1), generator=self._generator, device=device)
        rows = self._bytes[(starts + torch.arange(seq_len + 1, device=device)) % length]
        return rows[:, :-1], rows[:, 1:]
