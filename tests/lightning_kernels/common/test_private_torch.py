"""What torch's private interface answers in each state: the tests to run first on a new torch."""

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_kernels.common import private_torch


class CountingMode(TorchDispatchMode):
    """Count the operators that reach the dispatch mode."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_below_autograd():
    x = torch.ones(2, requires_grad=True)
    assert x.mul(2).requires_grad
    with private_torch.below_autograd():
        assert not x.mul(2).requires_grad
    assert x.mul(2).requires_grad


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_below_autocast(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x = torch.ones(2, 2, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.mm(x, x).dtype == torch.bfloat16
        with private_torch.below_autocast(device):
            assert torch.mm(x, x).dtype == torch.float32
        assert torch.mm(x, x).dtype == torch.bfloat16


def test_below_autocast_of_another_device():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), private_torch.below_autocast("cuda"):
        assert torch.mm(x, x).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_current_device():
    for index in range(2):
        with torch.cuda.device(index):
            assert private_torch.current_device() == index


def test_dispatch_modes():
    assert private_torch.dispatch_modes() == 0
    with CountingMode() as mode:
        assert private_torch.dispatch_modes() == 1
        with FakeTensorMode():
            assert private_torch.dispatch_modes() == 2
        torch.ones(1)
        assert mode.count > 0
    assert private_torch.dispatch_modes() == 0


@pytest.mark.parametrize(
    "transform",
    [
        torch.vmap,
        lambda function: torch.func.grad(lambda x: function(x).sum()),
        lambda function: lambda x: torch.func.jvp(function, (x,), (x,)),
    ],
    ids=["vmap", "grad", "jvp"],
)
def test_has_functorch_transforms(transform):
    answers = []

    def function(x):
        answers.append(private_torch.has_functorch_transforms())
        return x * 2

    function(torch.ones(3))
    transform(function)(torch.ones(3))
    function(torch.ones(3))
    assert answers == [False, True, False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.*")
def test_tracing_state():
    answers = []

    def function(x):
        answers.append(private_torch.tracing_state() is not None)
        return x * 2

    function(torch.ones(3))
    torch.jit.trace(function, (torch.ones(3),), check_trace=False)
    function(torch.ones(3))
    assert answers == [False, True, False]


def test_has_forward_mode():
    assert not private_torch.has_forward_mode()
    with forward_ad.dual_level():
        assert private_torch.has_forward_mode()
    assert not private_torch.has_forward_mode()
    answers = []
    x = torch.ones(2)
    torch.func.jvp(lambda y: (answers.append(private_torch.has_forward_mode()), y)[1], (x,), (x,))
    assert answers == [True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_load_associative_scan(dtype):
    generator = torch.Generator().manual_seed(0)
    a, x = (torch.randn(2, 7, 3, generator=generator, dtype=dtype, requires_grad=True) for _ in range(2))

    def compose(first, then):
        return first[0] * then[0], then[0] * first[1] + then[1]

    _, got = private_torch.load_associative_scan()(compose, (a, x), 1, combine_mode="generic")
    state, expected = torch.zeros(2, 3, dtype=dtype), []
    for t in range(7):
        state = a[:, t] * state + x[:, t]
        expected.append(state)
    expected = torch.stack(expected, 1)
    torch.testing.assert_close(got, expected)
    weight = torch.randn(expected.shape, generator=generator, dtype=dtype)
    for one, two in zip(
        torch.autograd.grad(got, (a, x), weight), torch.autograd.grad(expected, (a, x), weight), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_tensor_guard():
    x, y = torch.ones(2, 3), torch.ones(4)
    like = private_torch.tensor_guard([x, y])
    assert like(x, y)
    assert like(torch.zeros(3, 3)[1:], y)
    others = (
        x.double(), x.half(), torch.ones(3, 2), torch.ones(3, 2).t(), torch.ones(2, 4)[:, :3], torch.ones(6),
        torch.ones(2, 3, requires_grad=True), torch.nn.Parameter(x, requires_grad=False), torch._neg_view(x),
        torch._efficientzerotensor((2, 3)), FakeTensorMode().from_tensor(x), torch.ones(2, 3, device="meta"),
    )  # fmt: skip
    for other in (*others, None, 1.0):
        assert not like(other, y)
    learned = private_torch.tensor_guard([torch.ones(2, requires_grad=True)])
    assert learned(torch.ones(2, requires_grad=True))
    with torch.inference_mode():
        assert not like(torch.ones(2, 3), y)
        assert private_torch.tensor_guard([torch.ones(2, 3)])(torch.ones(2, 3))
    with CountingMode():
        assert not like(x, y)
    with torch.autocast("cpu"):
        assert not like(x, y)
    seen = []
    torch.vmap(lambda z: (seen.append(like(z, y)), z)[1])(torch.ones(5, 2, 3))
    assert seen == [False]
    assert not private_torch.tensor_guard([x, x])(x, x)


def test_tensor_guard_keeps_nothing_alive():
    x = torch.ones(2)
    like, there = private_torch.tensor_guard([x]), weakref.ref(x)
    del x
    assert there() is None
    assert like(torch.ones(2))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_sharding_of_dtensors(tmp_path):
    """An operator whose results depend on a bool: what DTensor remembers of one is not for the other."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    library = torch.library.Library("private_torch_test", "DEF")
    library.define("twice(Tensor x, bool whole) -> Tensor")
    library.impl("twice", lambda x, whole: 2 * x if whole else x.new_empty(0), "CompositeExplicitAutograd")
    asked = []

    def placements(x, whole):
        asked.append(whole)
        return [
            ([Replicate()], [Replicate(), None]),
            ([Shard(0) if whole else Replicate()], [Shard(0), None]),
        ]

    twice = torch.ops.private_torch_test.twice.default
    private_torch.register_sharding(twice, placements)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        x = distribute_tensor(torch.ones(3), init_device_mesh("cpu", (1,)), [Shard(0)])
        assert private_torch.is_dtensor(x)
        assert not private_torch.is_dtensor(torch.ones(3))
        for whole in (False, True, False, True):
            y = twice(x, whole)
            assert y.shape == (3 if whole else 0,)
            assert y.placements == (Shard(0) if whole else Replicate(),)
        assert asked == [False, True]
    finally:
        torch.distributed.destroy_process_group()
