import pytest
import torch

import lightning_kernels as lk


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


def test_slopes_do_not_follow_the_default_device():
    with torch.device("meta"):
        assert torch.equal(lk.layer_slopes(8, 1, 12), lk.layer_slopes(lk.build_slope_tensor(8), 1, 12))
        assert lk.build_slope_tensor(8).device.type == "cpu"


def test_slopes_of_a_layer():
    s = lk.build_slope_tensor(8)
    torch.testing.assert_close(lk.layer_slopes(8, 0, 12), s * (1 + 1e-5), rtol=1e-7, atol=0)
    torch.testing.assert_close(lk.layer_slopes(s, 3, 12), s * (1 - 3 / 11 + 1e-5), rtol=1e-6, atol=0)
    torch.testing.assert_close(lk.layer_slopes(s, 11, 12), s * 1e-5, rtol=1e-6, atol=0)
    assert torch.equal(lk.layer_slopes(s, 0, 1), lk.layer_slopes(8, 0, 2))
    assert lk.layer_slopes(s.double().flatten(), 1, 3).dtype == torch.float64


@pytest.mark.parametrize(
    ("layer", "layers", "message"),
    [(0, 0, "layers must be at least 1"), (2, 2, "from 0 to 1 for 2 layers, got 2"), (-1, 4, "got -1")],
)
def test_layers_outside(layer, layers, message):
    with pytest.raises(ValueError, match=message):
        lk.layer_slopes(8, layer, layers)
