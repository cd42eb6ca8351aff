"""What is refused, how it is said, and what an import takes."""

import subprocess
import sys
from functools import partial
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import lightning_kernels as lk
from lightning_kernels.lightning2 import tiles
from tests.support.kernel_cases import run_each

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FULL = pytest.mark.parametrize(
    "attention",
    [lk.lightning_attn2, lk.lightning_attn2_torch, lk.reference_attention, lk.reference_recurrent],
)
ALL = pytest.mark.parametrize("attention", [lk.lightning_attn1, lk.lightning_attn2, lk.lightning_attn2_torch])
KERNELS = pytest.mark.parametrize("attention", [lk.lightning_attn1, lk.lightning_attn2])


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


@ALL
@pytest.mark.parametrize(
    ("q", "k", "v", "s", "message"),
    [
        ((2, 5, 16), (2, 5, 16), (2, 5, 16), None, "q must be"),
        ((1, 2, 5, 16), (1, 2, 5, 32), (1, 2, 5, 16), None, "q and k must share"),
        ((1, 2, 5, 16), (1, 2, 5, 16), (1, 2, 6, 16), None, "v must share"),
        ((1, 2, 5, 16), (1, 2, 5, 16), (1, 2, 5, 16), (3,), r"s must be \[2, 1, 1\] or \[2\]"),
    ],
)
def test_shapes(attention, q, k, v, s, message):
    with pytest.raises(ValueError, match=message):
        attention(zeros(*q), zeros(*k), zeros(*v), s if s is None else zeros(*s))


@FULL
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "nbhd"}, 'layout must be "bhnd" or "bnhd", got'),
        ({"initial_state": (1, 2, 16, 16)}, r"initial_state must be \[1, 4, 16, 16\]"),
        ({"initial_state": (1, 4, 16, 16), "cu_seqlens": [0, 2, 5]}, r"must be \[2, 4, 16, 16\]"),
        ({"initial_state": torch.zeros(1, 4, 16, 16, dtype=torch.int64)}, "floating dtype, got torch.int64"),
        ({"cu_seqlens": torch.tensor([0, 5])}, r"cu_seqlens must be int32 \[num_seqs \+ 1\]"),
        ({"cu_seqlens": [0]}, "at least one sequence"),
    ],
)
def test_options(attention, options, message):
    q, k = zeros(1, 4, 5, 16), zeros(1, 2, 5, 16)
    given = dict(options)
    for name, value in options.items():
        if isinstance(value, tuple):
            given[name] = zeros(*value)
        elif isinstance(value, list):
            given[name] = torch.tensor(value, dtype=torch.int32, device=DEVICE)
        elif isinstance(value, torch.Tensor):
            given[name] = value.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        attention(q, k, k, **given)


@FULL
def test_heads_and_batches(attention):
    q, k = zeros(2, 3, 5, 16), zeros(2, 2, 5, 16)
    with pytest.raises(
        ValueError, match="the heads of q must be a multiple of those of k and v, got 3 and 2"
    ):
        attention(q, k, k)
    bounds = torch.tensor([0, 5], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="a batch of 1, got 2"):
        attention(q, q, q, cu_seqlens=bounds)
    if DEVICE == "cuda":
        with pytest.raises(ValueError, match="cu_seqlens must be on the device"):
            attention(q[:1], q[:1], q[:1], cu_seqlens=bounds.cpu())


@pytest.mark.skipif(DEVICE == "cuda", reason="values are read on the CPU alone")
@FULL
def test_values_on_the_cpu(attention):
    x = zeros(1, 2, 5, 16)
    for slope in (-0.1, float("-inf"), float("nan")):
        with pytest.raises(ValueError, match="a number of at least 0"):
            attention(x, x, x, torch.tensor([0.1, slope]))
    for bounds in ([1, 5], [0, 6], [0, 3, 2, 5]):
        with pytest.raises(ValueError, match="must start at 0, never decrease and end at most at seq_len 5"):
            attention(x, x, x, cu_seqlens=torch.tensor(bounds, dtype=torch.int32))


@ALL
def test_dtypes(attention):
    x, whole = zeros(1, 2, 5, 16), zeros(1, 2, 5, 16, dtype=torch.int32)
    with pytest.raises(ValueError, match="floating"):
        attention(whole, whole, whole)
    with pytest.raises(ValueError, match="one dtype"):
        attention(x, x, x.half())
    with pytest.raises(ValueError, match="s must have a floating dtype"):
        attention(x, x, x, zeros(2, dtype=torch.int32))


@KERNELS
def test_limits_of_the_kernels(attention):
    wide, narrow = zeros(1, 1, 2, 257), zeros(1, 1, 2, 16)
    with pytest.raises(ValueError, match="head_dim from 1 to 256, got 257"):
        attention(wide, wide, narrow)
    with pytest.raises(ValueError, match="value_dim from 1 to 256, got 257"):
        attention(narrow, narrow, wide)
    with pytest.raises(ValueError, match="bfloat16, got"):
        attention(narrow.double(), narrow.double(), narrow.double())


@ALL
def test_slopes_get_no_gradient(attention):
    x = zeros(1, 2, 5, 16)
    with pytest.raises(NotImplementedError, match="respect to s"):
        attention(x, x, x, zeros(2).requires_grad_())


@ALL
def test_no_second_derivative(attention):
    q = torch.ones(1, 1, 3, 16, device=DEVICE, requires_grad=True)
    do = torch.ones_like(q, requires_grad=True)
    (grad,) = torch.autograd.grad(attention(q, q, q), q, do, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


def test_block_size():
    x = torch.zeros(1, 2, 5, 16)
    with pytest.raises(ValueError, match="block_size"):
        lk.lightning_attn2_torch(x, x, x, block_size=0)


def test_config():
    portable = {"capability": (8, 0), "shared_bytes": 232448}
    assert (
        lk.lightning2_config(128, 128, torch.bfloat16, **portable)
        == "path=portable block=64 warps=8 stages=3 split_e=1"
    )
    assert (
        lk.lightning2_config(64, 64, torch.float16, **portable)
        == "path=portable block=64 warps=4 stages=4 split_e=1"
    )
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert lk.lightning2_config(80, 96, dtype, **portable) == lk.lightning2_config(
            128, 96, dtype, **portable
        )
    small = lk.lightning2_config(128, 128, torch.float16, capability=(8, 9), shared_bytes=101376)
    assert small.split()[3] == "stages=2"
    with pytest.raises(ValueError, match="got 300"):
        lk.lightning2_config(300, 64, torch.float32)
    with pytest.raises(ValueError, match="float64"):
        lk.lightning2_config(64, 64, torch.float64)


def test_config_of_the_hopper_kernel(monkeypatch):
    pytest.importorskip("triton", minversion="3.6")
    describe = partial(lk.lightning2_config, capability=(9, 0))
    many = describe(128, 128, torch.bfloat16, programs=128)
    assert many == "path=hopper block=64 columns=128 stages=4 split_e=1 segments=1"
    few = describe(128, 128, torch.bfloat16, programs=16, seq_len=131072)
    assert few == "path=hopper block=64 columns=64 stages=4 split_e=2 load=tma segments=4"
    wide = describe(256, 256, torch.bfloat16, programs=64, seq_len=16384)
    assert wide == "path=hopper block=64 columns=128 stages=2 split_e=2 load=tma segments=1"
    few = describe(64, 64, torch.bfloat16, programs=66)
    assert few == "path=hopper block=64 columns=32 stages=8 split_e=2 segments=1"
    backward = describe(64, 256, torch.float16, backward=True)
    assert backward == "path=hopper block=64 columns=128 stages=2 split_e=2 load=tma segments=1"
    backward = describe(64, 256, torch.float16, programs=32, backward=True)
    assert backward.startswith("path=hopper block=64 columns=64 stages=2 split_e=4")
    assert describe(128, 128, torch.float32).startswith("path=portable")
    assert describe(128, 24, torch.float16).startswith("path=portable")
    monkeypatch.setenv("LIGHTNING_KERNELS_HOPPER", "0")
    assert describe(128, 128, torch.bfloat16).startswith("path=portable")


@pytest.mark.parametrize(
    ("release", "has_gluon"), [("3.5.1", False), ("3.6.0+git1234", True), ("3.10.0.post1", True)]
)
def test_triton_of_another_distribution(monkeypatch, release, has_gluon):
    """pytorch-triton and triton-windows have no metadata under the name of triton."""

    def unknown(name):
        raise PackageNotFoundError(name)

    triton = pytest.importorskip("triton")
    monkeypatch.setattr(metadata, "version", unknown)
    monkeypatch.setattr(triton, "__version__", release)
    tiles._triton_has_gluon.cache_clear()
    try:
        config = lk.lightning2_config(128, 128, torch.bfloat16, capability=(9, 0), shared_bytes=232448)
    finally:
        tiles._triton_has_gluon.cache_clear()
    assert config.startswith("path=hopper" if has_gluon else "path=portable")


NAMES = ("lightning_attn1", "lightning_attn2", "lightning_attn2_step", "simple_rms_norm", "gate_loop")


@pytest.mark.parametrize("name", NAMES)
def test_gpus_of_amd_are_refused(monkeypatch, name):
    """To torch they are "cuda", and an MI200 has the capability of Hopper."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with FakeTensorMode() as mode:
        x, token, state = (
            FakeTensor(mode, torch.empty(shape, dtype=dtype, device="meta"), torch.device("cuda:0"))
            for shape, dtype in (
                ((1, 2, 5, 16), torch.bfloat16), ((1, 2, 16), torch.bfloat16), ((1, 2, 16, 16), torch.float32)
            )
        )  # fmt: skip
        calls = {
            "lightning_attn2_step": lambda: lk.lightning_attn2_step(token, token, token, state=state),
            "simple_rms_norm": lambda: lk.simple_rms_norm(x),
            "gate_loop": lambda: lk.gate_loop(x, x, x, x),
        }
        call = calls.get(name, lambda: getattr(lk, name)(x, x, x))
        with pytest.raises(ValueError, match=rf"{name} takes NVIDIA GPUs, got cuda.*ROCm 6\.4.*_torch there"):
            call()


def test_import_needs_neither_torch_nor_triton():
    code = (
        "import sys, lightning_kernels as lk; assert not {'torch', 'triton'} & set(sys.modules);"
        "assert set(lk.__all__) <= set(dir(lk))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_resolve():
    assert all(callable(getattr(lk, name)) for name in lk.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = lk.nothing_here


@pytest.mark.slow
def test_torch_form_without_triton_and_cpu_tensors_without_interpreter():
    run_each(
        "import sys, torch, lightning_kernels as lk\n"
        "x = torch.ones(1, 1, 3, 16)\n"
        "try: lk.lightning_attn2(x, x, x)\n"
        "except ValueError as e: assert 'lightning_attn2_torch' in str(e)\n"
        "else: raise SystemExit('CPU tensors were taken')\n",
        "import sys; sys.modules['triton'] = None\n"
        "import torch, lightning_kernels as lk\n"
        "x = torch.ones(1, 1, 3, 16)\n"
        "lk.lightning_attn2_torch(x, x, x); lk.lightning2_config(64, 64, torch.float16)\n"
        "try: lk.lightning_attn2(x, x, x)\n"
        "except ModuleNotFoundError as e: assert 'triton' in str(e)\n"
        "else: raise SystemExit('no triton, no error')\n",
    )
