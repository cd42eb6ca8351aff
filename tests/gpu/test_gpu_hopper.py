"""On compute capability 9.0: what the Hopper kernel does beyond the portable one, and that it does run."""

from functools import partial

import pytest
import torch

import lightning_kernels as lk
from lightning_kernels.common.call_kinds import KeptByKind
from lightning_kernels.lightning2 import plans as kept_plans
from lightning_kernels.lightning2 import tiles
from tests.support.kernel_cases import check_case, make_case, make_inputs, relative_l2, run

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0"),
]

BUDGET = {torch.float16: 6e-4, torch.bfloat16: 4e-3}
dtypes = pytest.mark.parametrize("dtype", list(BUDGET), ids=["fp16", "bf16"])


@pytest.fixture(autouse=True)
def plans(monkeypatch):
    """Let a test that changes what is decided upon find no decision of another, and leave none."""
    monkeypatch.delenv("LIGHTNING_KERNELS_HOPPER", raising=False)  # CONTRIBUTING.md has GPU tests run with it
    kept = KeptByKind()
    monkeypatch.setattr(kept_plans, "_plans", kept)
    return kept


@pytest.fixture
def launches(monkeypatch):
    """Count the launches of the Hopper kernel."""
    from lightning_kernels.lightning2.hopper import host

    count = []
    plain = host.Launch.__call__
    monkeypatch.setattr(host.Launch, "__call__", lambda *args: count.append(1) or plain(*args))
    return count


@pytest.fixture
def check(launches):
    """Hold a random case of (b, heads, kv_heads, n, d, e) against fp64: a launch forward and one backward."""

    def check_one(*shape, dtype, size=None, **more):
        size = max(shape[-2:]) ** -0.25 if size is None else size
        case = make_case(*shape, dtype, size=size, device="cuda", **more)
        check_case(lk.lightning_attn2, case, BUDGET[dtype])
        assert len(launches) == 2

    return check_one


@pytest.fixture
def portable(monkeypatch):
    monkeypatch.setattr(kept_plans, "hopper", lambda device: None)


@dtypes
@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 913])
@pytest.mark.parametrize(
    ("d", "e"), [(16, 32), (64, 64), (64, 128), (128, 64), (128, 128), (192, 96), (256, 256)]
)
def test_shapes(check, dtype, d, e, n, layout):
    check(2, 4, 2, n, d, e, dtype=dtype, scale=0.5, layout=layout)


@dtypes
@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 200, 913])
@pytest.mark.parametrize(("d", "e"), [(256, 256), (256, 80), (192, 208)])
def test_wide_kernel(check, monkeypatch, dtype, d, e, n, layout):
    """128 columns of head_dim above 128, for which as many heads are needed as fill the device, and TMA."""
    monkeypatch.setattr(tiles, "_WIDE_FROM", 1)
    assert "columns=128 stages=2" in lk.lightning2_config(d, e, dtype, programs=34, seq_len=n)
    check(17, 4, 2, n, d, e, dtype=dtype, scale=0.5, layout=layout)


@dtypes
@pytest.mark.parametrize("slope", [None, 0.0, 1e-4, 8.0, 30.0])
def test_slopes_of_the_wide_kernel(check, monkeypatch, dtype, slope):
    """Its weights are products of two parts, one of which may be large."""
    monkeypatch.setattr(tiles, "_WIDE_FROM", 1)
    check(17, 4, 4, 300, 256, 128, dtype=dtype, slope=slope)


@dtypes
@pytest.mark.parametrize("slope", [0.0, 0.3, 30.0])
@pytest.mark.parametrize("n", [1, 65, 200, 913])
@pytest.mark.parametrize(("d", "e"), [(256, 256), (256, 80), (192, 208)])
def test_wide_kernel_backward(launches, monkeypatch, dtype, d, e, n, slope):
    """Without states; TMA also brings the tiles of the roles that walk from the end."""
    monkeypatch.setattr(tiles, "_WIDE_BACKWARD_FROM", 1)
    config = lk.lightning2_config(d, e, dtype, programs=68, seq_len=n, backward=True)
    assert "columns=128 stages=2" in config
    q, k, v, do = make_inputs(17, 4, n, d, e, dtype, scale=max(d, e) ** -0.25, device="cuda")
    s = torch.linspace(slope, 0, 4, device="cuda")
    got = run(lk.lightning_attn2, q, k, v, do, s)
    assert len(launches) == 2
    exact = (x.detach().double().requires_grad_() for x in (q, k, v))
    for actual, expected in zip(got, run(lk.reference_attention, *exact, do.double(), s), strict=True):
        assert relative_l2(actual, expected) <= BUDGET[dtype]


@dtypes
@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("n", [1, 65, 640, 2049])
@pytest.mark.parametrize(("d", "e"), [(64, 64), (64, 128), (128, 64), (128, 128), (80, 48), (256, 256)])
def test_tiles_brought_by_tma(check, monkeypatch, dtype, d, e, n, layout):
    """Few heads: in one segment, in several, which walk over blocks without q, and with grouped heads."""
    monkeypatch.setattr(tiles, "_BOXES_FROM", 1)
    assert "load=tma" in lk.lightning2_config(d, e, dtype, programs=8, seq_len=n)
    check(2, 4, 2, n, d, e, dtype=dtype, scale=0.5, layout=layout)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_read_many_times_is_not_read_by_tma(monkeypatch, which):
    """An expanded tensor has a stride of 0, which no descriptor takes."""
    monkeypatch.setattr(tiles, "_BOXES_FROM", 1)
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 300, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    inputs[which] = inputs[which][:, :1].expand(2, 4, 300, 64)
    slopes = lk.build_slope_tensor(4).to("cuda")
    expected = lk.reference_attention(*(x.double() for x in inputs), slopes)
    error = (lk.lightning_attn2(*inputs, slopes).double() - expected).norm() / expected.norm()
    assert error <= BUDGET[torch.bfloat16]


@dtypes
@pytest.mark.parametrize("n", [1, 64, 65, 128, 191, 320])
@pytest.mark.parametrize(("d", "e"), [(64, 64), (64, 128), (128, 64), (128, 128)])
def test_many_heads(check, dtype, d, e, n):
    """More than half of the multiprocessors get a head; with fewer, as in other tests, columns are halved."""
    assert f"columns={e}" in lk.lightning2_config(d, e, dtype, programs=68, seq_len=n)
    check(17, 4, 4, n, d, e, dtype=dtype, scale=0.5)


@dtypes
@pytest.mark.parametrize("slope", [None, 0.0, 1e-4, 0.02, 0.7, 8.0, 1e3])
@pytest.mark.parametrize("d", [64, 128])
def test_segments_that_walk_ahead(check, dtype, d, slope):
    n = 6000
    config = lk.lightning2_config(d, d, dtype, programs=2, seq_len=n)
    assert int(config.rsplit("segments=", 1)[1]) > 4
    check(1, 2, 2, n, d, d, dtype=dtype, slope=slope)


@dtypes
@pytest.mark.parametrize(("slope", "n"), [(0.01, 12000), (0.005, 16000)])
@pytest.mark.parametrize("d", [64, 128])
def test_an_early_token_of_ten_thousand_reaches_the_rows_that_it_should(launches, dtype, d, slope, n):
    """Row by row: an error over a whole tensor does not show a window that is too short.

    k and v of the token are 100 times as large, so that it outweighs others until λ^t is 10⁻⁴.
    """
    case = make_case(1, 1, 1, n, d, d, dtype, state=False, size=d**-0.25, device="cuda")
    case.s = torch.full((1,), slope, device="cuda")
    segments = int(lk.lightning2_config(d, d, dtype, programs=1, seq_len=n).rsplit("segments=", 1)[1])
    assert segments > 2
    for token in (0, *range(1, n, n // 32)):
        k, v = case.k.clone(), case.v.clone()
        k[:, :, token] *= 100
        v[:, :, token] *= 100
        o = lk.lightning_attn2(case.q, k, v, case.s)
        q, k, v = case.q.double(), k.double(), v.double()
        expected = lk.lightning_attn2_torch(q, k, v, case.s)
        # The terms of a row have random signs: their squares add up to the square of its size.
        energy = lk.lightning_attn2_torch(q**2, k**2, v**2, 2 * case.s)
        size = torch.maximum(expected.norm(dim=-1), energy.sum(-1).sqrt())
        error = (o.double() - expected).norm(dim=-1) / size
        assert float(error.max()) <= 3 * BUDGET[dtype], (token, int(error.argmax()))
    assert launches


@dtypes
def test_segments_of_packed_sequences(check, dtype):
    bounds = [0, 3000, 3000, 3001, 3100, 5000]
    check(1, 2, 1, 5000, 64, 128, dtype=dtype, bounds=bounds, size=0.3, layout="bnhd")


@dtypes
def test_same_as_the_portable_kernel(portable, launches, dtype):
    case = make_case(2, 3, 3, 700, 80, 128, dtype, size=0.3, device="cuda")
    check_case(lk.lightning_attn2, case, BUDGET[dtype])
    assert not launches


@pytest.mark.parametrize(
    "change",
    [lambda x: x[..., :24].contiguous(), lambda x: x.float()],
    ids=["dim", "dtype"],
)
def test_what_it_does_not_take_goes_to_the_portable_kernel(launches, change):
    q, k, v, _ = (change(x.detach()) for x in make_inputs(1, 2, 70, 64, 64, torch.bfloat16, device="cuda"))
    s = torch.tensor([0.1, 0.0], device="cuda")
    o = lk.lightning_attn2(q, k, v, s)
    assert relative_l2(o, lk.reference_attention(q, k, v, s)) <= 4e-3
    assert not launches


def test_calls_alike_share_a_plan_and_others_do_not(plans, launches):
    """In turns, several times: other values and addresses, strides, slopes, states, gradients and scales."""
    cases = [
        make_case(2, 4, kv_heads, 200, 64, 64, torch.bfloat16, layout=layout, device="cuda", **more)
        for kv_heads, layout, more in (
            (4, "bhnd", {}), (4, "bhnd", {"scale": 0.5}), (2, "bhnd", {}), (4, "bnhd", {}),
            (4, "bhnd", {"slope": None}), (2, "bnhd", {"slope": None}),
        )
    ]  # fmt: skip
    for _ in range(3):
        for case in cases:
            check_case(lk.lightning_attn2, case, BUDGET[torch.bfloat16])
    assert len(launches) == 3 * 2 * len(cases)
    assert len(plans) == 2 * (len(cases) - 1)  # the scale is not a part of a plan


def test_gradients_of_other_strides_than_o(launches):
    q, k, v, do = make_inputs(2, 2, 100, 64, 64, torch.bfloat16, device="cuda")
    s = torch.tensor([0.1, 0.0], device="cuda")
    expected = run(lk.lightning_attn2, q, k, v, do, s)
    turned = do.transpose(1, 2).contiguous().transpose(1, 2)
    odd = torch.cat([do, do], dim=-1)[..., 4:68].copy_(do)
    for same in (turned, odd, do):
        got = run(lk.lightning_attn2, q, k, v, same, s)
        for one, two in zip(got, expected, strict=True):
            assert relative_l2(one, two) <= BUDGET[torch.bfloat16]
    assert len(launches) == 8


@dtypes
@pytest.mark.parametrize("expanded", [False, True])
def test_what_it_cannot_read_is_copied(launches, dtype, expanded):
    """Addresses between multiples of 16 bytes, and gradients as `o.sum().backward()` has them."""
    case = make_case(1, 2, 2, 300, 64, 64, dtype, size=0.3, device="cuda")
    if expanded:
        case.do, case.d_state = (
            torch.ones_like(x[:1, :1, :1, :1]).expand(x.shape) for x in (case.do, case.d_state)
        )
    else:
        case.q, case.k, case.v, case.do = (
            torch.cat([x, x], dim=-1)[..., 4:68].copy_(x) for x in (case.q, case.k, case.v, case.do)
        )
    inputs = [x.requires_grad_() for x in (case.q, case.k, case.v, case.initial_state)]
    results = case.call(lk.lightning_attn2, inputs)
    grads = torch.autograd.grad(results, inputs, (case.do, case.d_state))
    assert len(launches) == 2
    expected = case.run(lk.reference_attention, torch.float64)
    for x, y in zip((*results, *grads), expected.values(), strict=True):
        assert relative_l2(x, y) <= BUDGET[dtype]


@pytest.mark.parametrize("scale", [1e-3, -1e-6])
@pytest.mark.parametrize("from_state", [False, True])
def test_small_scales_in_float16(launches, scale, from_state):
    case = make_case(1, 2, 2, 300, 64, 128, torch.float16, scale=scale, device="cuda")
    case.v, case.do, case.d_state = case.v * 20, case.do * 100, case.d_state * from_state
    check_case(lk.lightning_attn2, case, BUDGET[torch.float16])
    assert launches


def first_rows(heads, n, d, dtype, bounds=None):
    """Return the rows of the first 3000 tokens of a head beside other heads and tokens, and their dq."""
    make = torch.Generator("cuda").manual_seed(0)
    q, k, v, do = (torch.randn(3000, d, device="cuda", generator=make).to(dtype) * 0.3 for _ in range(4))
    inputs = []
    for x in (q, k, v, do):
        wide = torch.randn(1, heads, n, d, device="cuda").to(dtype) * 0.3
        wide[0, 0, :3000] = x
        inputs.append(wide)
    q, k, v, do = inputs
    bounds = None if bounds is None else torch.tensor(bounds, dtype=torch.int32, device="cuda")
    s = torch.full((heads,), 0.01, device="cuda")
    o = lk.lightning_attn2(q.requires_grad_(), k, v, s, cu_seqlens=bounds)
    (dq,) = torch.autograd.grad(o, q, do)
    return o[0, 0, :3000].detach(), dq[0, 0, :3000]


@dtypes
@pytest.mark.parametrize("d", [64, 128, 256])
def test_bits_of_a_row_that_do_not_depend_on_what_else_is_computed(monkeypatch, dtype, d):
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")
    alone = first_rows(1, 3000, d, dtype)
    for heads, n, bounds in ((150, 3000, None), (1, 30000, None), (40, 3500, [0, 3000, 3010, 3500])):
        for a, b in zip(alone, first_rows(heads, n, d, dtype, bounds), strict=True):
            assert torch.equal(a, b)


def test_a_scale_that_was_an_int_at_first(monkeypatch, launches):
    from lightning_kernels.lightning2.hopper import host

    monkeypatch.setattr(host, "compiled_kernels", {})
    q, k, v, do = make_inputs(1, 2, 70, 64, 64, torch.bfloat16, device="cuda")
    whole = run(partial(lk.lightning_attn2, scale=1), q, k, v, do, None)
    half = run(partial(lk.lightning_attn2, scale=0.5), q, k, v, do, None)
    for one, two in zip(whole, half, strict=True):
        assert relative_l2(two, 0.5 * one) <= BUDGET[torch.bfloat16]
    assert len(launches) == 4


def test_a_view_that_is_negated_when_read():
    q, k, v, _ = (x.detach() for x in make_inputs(1, 2, 70, 64, 64, torch.bfloat16, device="cuda"))
    assert torch.equal(lk.lightning_attn2(torch._neg_view(q), k, v), lk.lightning_attn2(-q, k, v))


def test_saved_tensors_that_come_back_laid_out_otherwise():
    q, k, v, do = make_inputs(2, 2, 100, 64, 64, torch.bfloat16, device="cuda")
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v))
    expected = run(lk.lightning_attn2, q, k, v, do, None)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.cpu(), lambda x: x.contiguous().cuda()):
        got = run(lk.lightning_attn2, q, k, v, do, None)
    for one, two in zip(got, expected, strict=True):
        assert relative_l2(one, two) <= BUDGET[torch.bfloat16]


def test_a_neighbour_of_what_is_not_a_number_is_untouched(launches):
    q, k, v, do = make_inputs(2, 2, 100, 64, 64, torch.bfloat16, device="cuda")
    with torch.no_grad():
        for x in (q, k, v, do):
            x[0, 0] = float("nan")
    got = run(lk.lightning_attn2, q, k, v, do, torch.tensor([0.1, 0.0], device="cuda"))
    for x in got:
        assert x[0, 1].isfinite().all()
        assert x[1].isfinite().all()
    assert len(launches) == 2
