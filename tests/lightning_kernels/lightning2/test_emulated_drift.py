"""What adds up over many blocks: the decay of a block, which multiplies the state again and again."""

import pytest
import torch

from lightning_kernels.common.call import Call
from lightning_kernels.lightning2.tiles import CATCH_UP
from tests.support.gluon_emulator.source import Edit
from tests.support.gluon_emulator.trials import Runner

BLOCKS = 128
SLOPES = (1e-7, 1e-6)
EX2 = "decay = exp2(-load_slope(slope_ptr, steps) * tokens)"
BY_EX2 = Edit(
    "hopper/state.py",
    "        decay = exact.to(gl.float32)\n",
    f"        {EX2}\n        exact = decay.to(gl.float64)\n",
)
ROUNDED = Edit("hopper/state.py", " + (exact - decay.to(gl.float64)) * (_CATCH_UP - 1)", "")


def worst_drift(head_dim, segments, edits=()):
    """Return the largest mean relative error of a final state to which no token adds.

    Products with elements of the state are rounded to both sides; their mean shows what is off in the decay.
    """
    runner = Runner(edits)
    cuts = runner.source.module("cuts")
    cuts.hopper_segments = lambda *_: segments
    n, heads = 64 * BLOCKS, len(SLOPES)
    x, s = torch.zeros(1, heads, n, head_dim, dtype=torch.bfloat16), torch.tensor(SLOPES)
    generator = torch.Generator().manual_seed(0)
    initial = 1 + torch.rand(1, heads, head_dim, head_dim, generator=generator)
    call = Call(x, x, x, s, initial_state=initial, return_state=True)
    _, state = runner.host.HopperAttention().forward(call)
    kept = initial.double() * torch.exp(-s.double() * n)[:, None, None]
    return float((state.double() / kept - 1).mean((0, 2, 3)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [16, 128])
def test_the_state_does_not_drift(head_dim):
    """In pairs of blocks, or block by block."""
    assert worst_drift(head_dim, 1) < 8 * 2.0**-24
    assert worst_drift(head_dim, 1, [ROUNDED]) > 30 * 2.0**-24
    assert worst_drift(head_dim, 1, [BY_EX2]) > 300 * 2.0**-24


@pytest.mark.slow
def test_the_state_does_not_drift_over_blocks_before_a_segment():
    """These go in groups. Before all of CATCH_UP have passed, their error is at most what is caught up."""
    assert worst_drift(16, 2) < (CATCH_UP / 2 + 8) * 2.0**-24
    assert worst_drift(16, 2, [BY_EX2]) > 100 * 2.0**-24
