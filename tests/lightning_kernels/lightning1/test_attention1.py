"""What only the quadratic kernel refuses; tests of both kernels are in lightning2."""

import pytest
import torch

import lightning_kernels as lk

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_one_number_of_heads():
    q, k = torch.zeros(1, 4, 5, 16, device=DEVICE), torch.zeros(1, 2, 5, 16, device=DEVICE)
    with pytest.raises(ValueError, match="one number of heads, got q 4 and k 2"):
        lk.lightning_attn1(q, k, k)
