import pytest
import torch

import lightning_kernels as lk
from tests.support.kernel_cases import make_case, make_inputs, oracle, run


@pytest.mark.parametrize("slopes", [None, [0.0, 0.3], [4.0, 1e-4]])
def test_quadratic_equals_recurrent(slopes):
    q, k, v, do = make_inputs(2, 2, 37, 5, 7, torch.float64)
    s = None if slopes is None else torch.tensor(slopes)
    quadratic = run(lk.reference_attention, q, k, v, do, s)
    recurrent = run(lk.reference_recurrent, q, k, v, do, s)
    for a, b in zip(quadratic, recurrent, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_reference_is_what_the_definition_says():
    q, k, v = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0]), torch.tensor([11.0, 13.0])
    o = lk.reference_attention(*(x.reshape(1, 1, 2, 1) for x in (q, k, v)), torch.tensor([0.5]))
    decay = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    torch.testing.assert_close(o.flatten(), torch.stack([decay * 0 + 110, 165 * decay + 273]))


def test_gradients_of_the_reference_by_finite_differences():
    q, k, v, do = make_inputs(1, 2, 9, 3, 4, torch.float64)
    s = torch.tensor([0.1, 2.0])
    grads = oracle(q, k, v, do, s)[1:]
    step = 1e-5
    for position, (x, grad) in enumerate(zip((q, k, v), grads, strict=True)):
        move = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(position))
        sides = []
        for sign in (1, -1):
            moved = [y.detach() for y in (q, k, v)]
            moved[position] = moved[position] + sign * step * move
            sides.append((lk.reference_recurrent(*moved, s) * do).sum())
        torch.testing.assert_close((sides[0] - sides[1]) / (2 * step), (grad * move).sum(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("bounds", [None, [0, 0, 4, 9]])
def test_oracles_agree_on_states_groups_and_packing(bounds):
    b = 2 if bounds is None else 1
    case = make_case(b, 4, 2, 9, 3, 5, torch.float64, bounds=bounds, slope=2.0, scale=0.3, layout="bnhd")
    quadratic, recurrent = case.run(lk.reference_attention), case.run(lk.reference_recurrent)
    assert quadratic["o"].shape == (b, 9, 4, 5)
    for name, x in quadratic.items():
        torch.testing.assert_close(x, recurrent[name], rtol=1e-11, atol=1e-12)


def test_scale_and_states_are_what_the_definition_says():
    two, three, five = (torch.full((1, 1, 1, 1), x, dtype=torch.float64) for x in (2.0, 3.0, 5.0))
    half = torch.tensor([2.0]).log()
    for reference in (lk.reference_attention, lk.reference_recurrent):
        o, state = reference(two, three, five, half, scale=10.0, initial_state=two * 4, return_state=True)
        assert state.item() == pytest.approx(8 / 2 + 15)
        assert o.item() == pytest.approx(10 * 2 * (8 / 2 + 15))
        assert reference(two, three, five, half).item() == pytest.approx(30)


def test_query_heads_share_kv_heads_in_runs():
    case = make_case(1, 4, 2, 6, 3, 3, torch.float64)
    grouped = lk.reference_attention(case.q, case.k, case.v, case.s)
    for i in range(4):
        k, v = (x[:, i // 2 : i // 2 + 1] for x in (case.k, case.v))
        one = lk.reference_recurrent(case.q[:, i : i + 1], k, v, case.s[i : i + 1])
        torch.testing.assert_close(grouped[:, i : i + 1], one)
