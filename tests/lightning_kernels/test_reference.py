import pytest
import torch

import lightning_kernels as lk


@pytest.mark.parametrize("slopes", [None, [0.0, 0.3], [4.0, 1e-4]])
def test_quadratic_equals_recurrent(tools, slopes):
    q, k, v, do = tools.make_inputs(2, 2, 37, 5, 7, torch.float64)
    s = None if slopes is None else torch.tensor(slopes)
    quadratic = tools.run(lk.reference_attention, q, k, v, do, s)
    recurrent = tools.run(lk.reference_recurrent, q, k, v, do, s)
    for a, b in zip(quadratic, recurrent, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_reference_is_what_the_definition_says():
    q, k, v = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0]), torch.tensor([11.0, 13.0])
    o = lk.reference_attention(*(x.reshape(1, 1, 2, 1) for x in (q, k, v)), torch.tensor([0.5]))
    decay = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    torch.testing.assert_close(o.flatten(), torch.stack([decay * 0 + 110, 165 * decay + 273]))


def test_gradients_of_the_reference_by_finite_differences(tools):
    q, k, v, do = tools.make_inputs(1, 2, 9, 3, 4, torch.float64)
    s = torch.tensor([0.1, 2.0])
    grads = tools.oracle(q, k, v, do, s)[1:]
    step = 1e-5
    for position, (x, grad) in enumerate(zip((q, k, v), grads, strict=True)):
        move = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(position))
        sides = []
        for sign in (1, -1):
            moved = [y.detach() for y in (q, k, v)]
            moved[position] = moved[position] + sign * step * move
            sides.append((lk.reference_recurrent(*moved, s) * do).sum())
        torch.testing.assert_close((sides[0] - sides[1]) / (2 * step), (grad * move).sum(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("heads", [1, 2, 8, 16, 64])
def test_slopes_of_a_power_of_two(heads):
    s = lk.build_slope_tensor(heads)
    assert s.shape == (heads, 1, 1)
    assert s.dtype == torch.float32
    assert s.flatten().tolist() == pytest.approx([2 ** (-8 * (i + 1) / heads) for i in range(heads)])


def test_slopes_in_between():
    twelve = lk.build_slope_tensor(12).flatten()
    assert twelve[:8].tolist() == lk.build_slope_tensor(8).flatten().tolist()
    assert twelve[8:].tolist() == lk.build_slope_tensor(16).flatten()[::2][:4].tolist()
    with pytest.raises(ValueError, match="at least 1"):
        lk.build_slope_tensor(0)
