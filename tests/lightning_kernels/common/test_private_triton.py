"""Launches past triton's binding send the driver what triton sends: to run first on a new triton."""

import inspect
import random
from functools import partial

import pytest
import torch
import triton
import triton.language as tl

import lightning_kernels as lk
from lightning_kernels.common import call_kinds, launch, private_triton
from lightning_kernels.common.call import Call
from lightning_kernels.lightning2 import operator, plans, portable
from lightning_kernels.lightning2.hopper import host
from lightning_kernels.serving import bitwise_kernel, serve_kernel, verify_kernel
from lightning_kernels.step import decode_step, step_kernel
from tests.support import quick_interpreter
from tests.support.recorded_launches import STREAM, Recorder

known = pytest.mark.skipif(
    tuple(int(part) for part in private_triton.version.split(".")) < (3, 6),
    reason="goes through triton with releases before 3.6",
)
pytestmark = known
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def test_the_installed_triton_is_known():
    """A new release goes through triton until `direct_launch` has been read beside its launcher."""
    assert private_triton.version in private_triton.KNOWN_VERSIONS


def some_tensor(rng, shape, dtype, *, unit=True):
    """Return a tensor mostly like others: at any address and of any strides; the last is 1 where `unit`."""
    order = list(range(len(shape)))
    gap = begin = 0
    match rng.randrange(8):
        case 0:
            begin = rng.choice((1, 8, 16))
        case 1:
            gap = rng.choice((1, 16))
        case 2 if len(shape) > 2:
            order[:2] = 1, 0
        case 3 if not unit:
            order[-2:] = reversed(order[-2:])
    sizes = [shape[i] for i in order]
    sizes[-1] += gap
    storage = torch.zeros(begin + torch.Size(sizes).numel(), dtype=dtype)[begin:].view(sizes)
    tensor = storage[..., : sizes[-1] - gap]
    return tensor.permute([order.index(i) for i in range(len(shape))])


def some_call(rng):
    """Return what `portable.linear_attention` is given."""
    kv, dtype, packed = rng.choice((1, 2)), rng.choice(DTYPES[:2]), rng.random() < 0.2
    b, heads, n, d, e = 1 if packed else 2, 2, 5, 16, 16
    state = partial(some_tensor, rng, (2, heads, d, e), unit=False)
    call = Call(
        some_tensor(rng, (b, heads, n, d), dtype), some_tensor(rng, (b, kv, n, d), dtype),
        some_tensor(rng, (b, kv, n, e), dtype), some_tensor(rng, (heads,), torch.float32),
        state(dtype=rng.choice(DTYPES)) if rng.random() < 0.3 else None,
        torch.tensor([0, 1, n], dtype=torch.int32) if packed else None, rng.random(),
    )  # fmt: skip
    final = state(dtype=torch.float32) if rng.random() < 0.3 else None
    return call, some_tensor(rng, (b, heads, n, e), dtype), final


def test_the_portable_kernel(monkeypatch, recorder):
    past = recorder.compared(monkeypatch, launch)
    jit = recorder.kernel(portable.linear_attention_kernel)
    monkeypatch.setattr(portable, "_launches", launch.Launches(jit))
    rng = random.Random(0)
    for _ in range(600):
        portable.linear_attention(*some_call(rng), reverse=rng.random() < 0.3)
    assert len(past) >= 100
    assert len({function for function, *_ in past}) >= 20


def test_decode_steps(monkeypatch, recorder):
    past = recorder.compared(monkeypatch, launch)
    jit = recorder.kernel(step_kernel.attention_step_kernel)
    monkeypatch.setattr(decode_step, "unobserved", lambda _: True)
    monkeypatch.setattr(decode_step, "_steps", call_kinds.KeptByKind())
    monkeypatch.setattr(step_kernel, "interpreted", lambda _: True)
    monkeypatch.setattr(step_kernel, "_launches", launch.Launches(jit))
    rng = random.Random(0)
    for _ in range(300):
        b, heads, d, e, kv, dtype = 2, 2, 16, 16, rng.choice((1, 2)), rng.choice(DTYPES)
        token = [some_tensor(rng, (b, h, x), dtype) for h, x in ((heads, d), (kv, d), (kv, e))]
        s = some_tensor(rng, (heads,), torch.float32) if rng.random() < 0.7 else None
        state = some_tensor(rng, (b, heads, d, e), torch.float32)
        for _ in range(rng.choice((1, 2))):
            o = lk.lightning_attn2_step(*token, s, state=state, scale=rng.random())
            assert o.shape == (b, heads, e)
    assert len(past) >= 200
    assert len({function for function, *_ in past}) >= 20


def some_batch(rng, serve):
    """Serve a batch of two sequences twice, with some of the optional arguments."""
    tokens, heads, d, e, kv, dtype = 5, 2, 16, 16, rng.choice((1, 2)), rng.choice(DTYPES)
    rows = [some_tensor(rng, (tokens, h, x), dtype) for h, x in ((heads, d), (kv, d), (kv, e))]
    slots = torch.tensor([0, 1], dtype=torch.int32)
    options = {"state": some_tensor(rng, (3, heads, d, e), torch.float32)}
    options |= {"cu_seqlens": torch.tensor([0, 1, tokens], dtype=torch.int32), "state_indices": slots}
    if serve is lk.lightning_attn2_serve:
        if rng.random() < 0.5:
            options["has_initial_state"] = torch.tensor([False, True])
        if rng.random() < 0.3:
            options |= {"state": options["state"].bfloat16(), "rounding_seeds": slots.long()}
        options["max_seqlen"] = rng.choice((None, 4))
    else:
        options |= {"tails": lk.make_tails(3, heads, d, e, dtype, "cpu"), "context_lens": slots}
    if rng.random() < 0.5:
        options["output_state_indices"] = slots.flip(0) - 1
    if rng.random() < 0.3:
        options["snapshots"] = lk.Snapshots(64, torch.full((2, 1), -1, dtype=torch.int32))
    slopes = torch.zeros(heads)
    for _ in range(2):
        assert serve(*rows, slopes, scale=rng.random(), **options).shape == (tokens, heads, e)


@pytest.mark.parametrize("name", ["serve", "bitwise"])
def test_batches(monkeypatch, recorder, name):
    past = recorder.compared(monkeypatch, launch)
    module = {"serve": serve_kernel, "bitwise": bitwise_kernel}[name]
    jit = recorder.kernel(getattr(module, f"{name}_kernel"))
    monkeypatch.setattr(module, "interpreted", lambda _: True)
    monkeypatch.setattr(module, "_launches", launch.Launches(jit))
    rng = random.Random(0)
    for _ in range(150):
        some_batch(rng, lk.lightning_attn2_serve if name == "serve" else lk.lightning_attn2_serve_bitwise)
    assert len(past) >= 100
    assert len({function for function, *_ in past}) >= 20


def test_drafts(monkeypatch, recorder):
    past = recorder.compared(monkeypatch, launch)
    jit = recorder.kernel(verify_kernel.verify_kernel)
    monkeypatch.setattr(verify_kernel, "interpreted", lambda _: True)
    monkeypatch.setattr(verify_kernel, "_launches", launch.Launches(jit))
    rng = random.Random(0)
    for _ in range(100):
        dtype = rng.choice(DTYPES)
        q, k, v = (some_tensor(rng, (2, 3, 2, 16), dtype) for _ in range(3))
        slots = torch.tensor([0, 1], dtype=torch.int32)
        pool = {"state": some_tensor(rng, (3, 2, 16, 16), torch.float32), "state_indices": slots}
        if rng.random() < 0.3:
            lk.lightning_attn2_commit(k, v, num_accepted=slots, **pool)
        else:
            accepted = lk.Accepted(k, v, slots) if rng.random() < 0.5 else None
            lk.lightning_attn2_verify(q, k, v, torch.zeros(2), accepted=accepted, scale=rng.random(), **pool)
    assert len(past) >= 20
    assert len({function for function, *_ in past}) >= 6


@pytest.mark.parametrize("boxes", [False, True])
def test_the_hopper_kernel(monkeypatch, recorder, boxes):
    past = recorder.compared(monkeypatch, host)
    jit = recorder.kernel(host.linear_attention_kernel)
    monkeypatch.setattr(operator, "unobserved", lambda _: True)
    monkeypatch.setattr(plans, "_plans", call_kinds.KeptByKind())
    monkeypatch.setattr(plans, "hopper", lambda _: host)
    monkeypatch.setattr(host, "linear_attention_kernel", jit)
    monkeypatch.setattr(host, "compiled_kernels", {})
    if boxes:
        plain = host.hopper_launch
        monkeypatch.setattr(host, "hopper_launch", lambda *a: plain(*a[:6], 2**30, *a[7:]))
    rng = random.Random(0)
    for _ in range(150):
        n, packed, dtype = rng.choice((64, 4500)), rng.random() < 0.3, rng.choice(DTYPES[1:])
        q, k, v = (some_tensor(rng, (1, 2, n, 64), dtype).requires_grad_() for _ in range(3))
        initial = some_tensor(rng, (2 if packed else 1, 2, 64, 64), torch.float32)
        options = {
            "scale": rng.random(),
            "initial_state": initial if rng.random() < 0.5 else None,
            "cu_seqlens": torch.tensor([0, 5, n], dtype=torch.int32) if packed else None,
        }
        for final in rng.sample((True, False, True), 2):
            slopes = torch.zeros(3)[rng.randrange(2) :][:2]  # aligned or not
            result = lk.lightning_attn2(q, k, v, slopes, return_state=final, **options)
            results = result if final else (result,)
            torch.autograd.grad(results, (q, k, v), [torch.zeros_like(x) for x in results])
    assert len(past) >= 100
    assert len({function for function, *_ in past}) >= 8
    assert any(len(arguments) > len(jit.params) for *_, arguments in past) == boxes


def one_launch(recorder):
    """Return a kernel and a function that launches it past triton, of which triton sends one launch."""
    jit = recorder.kernel(step_kernel.attention_step_kernel)
    launches = launch.Launches(jit)
    x, state = torch.zeros(1, 1, 16), torch.zeros(1, 1, 16, 16)
    rest = 16, 16, 16, 16, 16, 16, 16, 16, 256, 256, 16, 1, 16, 16, 16, 16, False
    again = partial(
        launches, (1, 1, 1), (x, x, x, x, state, None, None, None), 1.0, rest, (("num_warps", 4),)
    )
    again()
    recorder.take()
    return jit, again


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
def test_hooks_of_triton_are_called(recorder, monkeypatch, hook):
    _, again = one_launch(recorder)
    again()
    ((_, grid, stream, *_),) = recorder.take()
    assert (grid, stream) == ((1, 1, 1), STREAM)
    heard = []
    with monkeypatch.context() as patch:
        chain = getattr(triton.knobs.runtime, hook)
        patch.setattr(chain, "calls", [lambda metadata: heard.append(metadata.get()["name"])])
        again()
    assert heard == ["attention_step_kernel"]
    with monkeypatch.context() as patch:
        patch.setattr(triton.knobs.runtime, hook, lambda _: heard.append("replaced"))
        again()
    again()
    assert heard[1:] == ["replaced"]
    assert len(recorder.take()) == 3


def test_hooks_before_a_kernel_are_called(recorder):
    jit, again = one_launch(recorder)
    heard = []
    jit.add_pre_run_hook(lambda *_, **__: heard.append("before"))
    again()
    assert heard == ["before"]
    assert len(recorder.take()) == 1


def test_settings_of_triton_that_change_compile_anew(recorder, monkeypatch):
    _, again = one_launch(recorder)
    functions = []
    for debug in (False, True, False):
        monkeypatch.setattr(triton.knobs.runtime, "debug", debug)
        again()
        ((function, *_),) = recorder.take()
        functions.append(function)
    assert functions[0] == functions[2] != functions[1]


@pytest.mark.parametrize("why", ["release", "memory"])
def test_others_go_through_triton(recorder, monkeypatch, why):
    if why == "release":
        monkeypatch.setattr(private_triton, "version", "9.9")
    else:
        recorder.metadata["global_scratch_size"] = 8
        monkeypatch.setattr(triton.runtime._allocation, "_allocator", triton.runtime._allocation._allocator)
        triton.set_allocator(lambda size, align, stream: torch.zeros(size, dtype=torch.uint8))
    _, again = one_launch(recorder)
    again()
    ((_, _, _, flags, _),) = recorder.take()
    assert (flags[2] is not None) == (why == "memory")


def test_launches_of_many_kinds_are_not_kept_for_ever(recorder, monkeypatch):
    monkeypatch.setattr(launch, "MOST_LAUNCHES", 4)
    launches = launch.Launches(recorder.kernel(step_kernel.attention_step_kernel))
    x, state = torch.zeros(1, 1, 16), torch.zeros(1, 1, 16, 16)
    for stride in range(10):
        rest = 16, 16, 16, 16, 16, 16, 16, 16, 256, stride, 16, 1, 16, 16, 16, 16, False
        launches((1, 1, 1), (x, x, x, x, state, None, None, None), 1.0, rest, (("num_warps", 4),))
        assert len(launches._known) <= 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
def test_the_interpreter_of_the_tests_finds_every_builtin():
    x, state = torch.ones(1, 1, 16), torch.zeros(1, 1, 16, 16)
    lk.lightning_attn2_step(x, x, x, state=state)
    for package in (tl, tl.tensor, tl.math):
        names = [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]
        assert len(names) > 5
        assert quick_interpreter._builtins[id(package)] == names


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
def test_the_interpreter_of_the_tests_makes_equal_types_and_tensors():
    plain = inspect.getclosurevars(tl.block_type.__init__).nonlocals["new_block"]
    for element_ty in (tl.int64, tl.float32):
        for shape in ([4, 2], [tl.constexpr(4), 2]):
            found, expected = tl.block_type(element_ty, shape), tl.block_type.__new__(tl.block_type)
            plain(expected, element_ty, shape)
            assert vars(found).keys() == vars(expected).keys()
            assert found == expected
            assert (found.name, found.numel) == (expected.name, expected.numel)
    plain = inspect.getclosurevars(tl.tensor.__init__).nonlocals["new_tensor"]
    for kind in (tl.int64, tl.block_type(tl.float32, [4, 2]), tl.block_type(tl.int8, [4, 2])):
        found, expected = tl.tensor("handle", kind), tl.tensor.__new__(tl.tensor)
        plain(expected, "handle", kind)
        assert vars(found).keys() == vars(expected).keys()
        assert all(bool(value == vars(expected)[name]) for name, value in vars(found).items())
