import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_kernels import lightning_attn2, lightning_attn2_step
from tests.support.kernel_cases import make_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("bounds", [None, [0, 3, 20]])
def test_attention(bounds):
    """Those of the recurrence: 4·d·e per token and head, backward 10·d·e, as `lbench` counts them."""
    case = make_case(1, 4, 2, 20, 16, 32, torch.float32, bounds=bounds, device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        o, _ = case.call(lightning_attn2, case.inputs())
        assert counter.get_total_flops() == 4 * 4 * 20 * 16 * 32
        o.sum().backward()
    assert counter.get_total_flops() == (4 + 10) * 4 * 20 * 16 * 32


def test_step():
    q, k, v = (torch.ones(3, heads, dim, device=DEVICE) for heads, dim in ((4, 16), (2, 16), (2, 32)))
    with FlopCounterMode(display=False) as counter:
        lightning_attn2_step(q, k, v, state=torch.ones(3, 4, 16, 32, device=DEVICE))
    assert counter.get_total_flops() == 4 * 3 * 4 * 16 * 32
