"""What `lightning_attn2_serve` and its plain form take, refuse and are to torch."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_kernels import Snapshots, lightning_attn2_serve, lightning_attn2_serve_torch
from tests.support.served_batches import int32, make_batch, same_bits, snapshots

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both = pytest.mark.parametrize("serve", [lightning_attn2_serve, lightning_attn2_serve_torch])
on_a_cpu = pytest.mark.skipif(DEVICE == "cuda", reason="reads values, on a CPU only")


def batch_of(lengths=(3, 20), **kinds):
    return make_batch(lengths, heads=4, kv_heads=2, device=DEVICE, **kinds)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


CHANGES = [
    ({"q": zeros(23, 4, 16, 1)}, r"q, k and v must be \[tokens, heads, dim\]"),
    ({"k": zeros(22, 2, 16)}, "k must share tokens and head_dim"),
    ({"v": zeros(23, 4, 16)}, "v must share tokens and heads"),
    ({"k": zeros(23, 3, 16), "v": zeros(23, 3, 16)}, "multiple of those of k, got 4 and 3"),
    ({"v": zeros(23, 2, 16, dtype=torch.float16)}, "one dtype"),
    ({"s": zeros(3)}, r"s must be \[4, 1, 1\] or \[4\]"),
    ({"state": zeros(4, 2, 16, 16)}, r"state must be a pool .* = \[slots, 4, 16, 16\], got"),
    ({"state": zeros(4, 4, 16, 16, dtype=torch.float16)}, "state must be float32 or bfloat16"),
    ({"state": zeros(4, 1, 16, 16).expand(4, 4, 16, 16)}, "must not be expanded"),
    ({"cu_seqlens": zeros(3)}, r"cu_seqlens must be int32 \[num_seqs \+ 1\]"),
    ({"state_indices": int32(0, device=DEVICE)}, r"state_indices must be int32 \[2\], got"),
    ({"state_indices": zeros(2, dtype=torch.int64)}, r"state_indices must be int32 \[2\], got torch.int64"),
    ({"output_state_indices": zeros(2)}, r"output_state_indices must be int32 \[2\]"),
    ({"has_initial_state": int32(0, 1, device=DEVICE)}, r"has_initial_state must be bool \[2\]"),
    ({"context_lens": zeros(1, dtype=torch.int32)}, r"context_lens must be int32 \[2\]"),
    (
        {"snapshots": Snapshots(64, zeros(2, dtype=torch.int32))},
        r"indices of snapshots must be int32 \[2, 1\]",
    ),
    ({"snapshots": Snapshots(0, zeros(2, 1, dtype=torch.int32))}, "every 1 or more tokens, got 0"),
    ({"rounding_seeds": zeros(2, dtype=torch.int64)}, "for states in bfloat16, got a pool in torch.float32"),
    ({"max_seqlen": -1}, "max_seqlen must be at least 1"),
    ({"max_seqlen": 0}, "max_seqlen must be at least 1, or None where it is not known, got 0"),
]


@both
@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message[:24] for _, message in CHANGES])
def test_what_does_not_fit_is_refused(serve, change, message):
    batch = batch_of(slots=[0, 1])
    fields = {name: value for name, value in change.items() if hasattr(batch, name)}
    changed = replace(batch, **fields, options={k: v for k, v in change.items() if k not in fields})
    before = changed.state.clone()
    with pytest.raises(ValueError, match=message):
        changed.call(serve, changed.state)
    assert same_bits(changed.state, before)


@on_a_cpu
@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s": torch.tensor([0.1, -0.1, 0.0, 0.0])}, "at least 0"),
        ({"cu_seqlens": int32(0, 5, 3)}, "never decrease"),
        ({"cu_seqlens": int32(1, 5, 23)}, "start at 0"),
        ({"cu_seqlens": int32(0, 5, 24)}, "end at most at"),
        ({"context_lens": int32(0, -1)}, r"context_lens must be at least 0, got \[0, -1\]"),
        ({"state_indices": int32(0, 4)}, "slots are from 0 to 3, or below 0 for none, got 4"),
        ({"state_indices": int32(1, 1)}, "sequence 0 would write to slot 1, which sequence 1 begins"),
        ({"output_state_indices": int32(2, 2)}, "two states would be written to slot 2"),
        ({"output_state_indices": int32(1, 2)}, "sequence 0 would write to slot 1, which sequence 1 begins"),
        ({"output_state_indices": int32(0, 9)}, "slots are from 0 to 3"),
        ({"snapshots": snapshots(10, [[-1, -1], [2, 2]])}, "two states would be written to slot 2"),
        ({"snapshots": snapshots(10, [[-1, -1], [0, -1]])}, "two states would be written to slot 0"),
    ],
)
def test_values_that_do_not_fit_are_refused_on_a_cpu(serve, change, message):
    batch = batch_of(slots=[0, 1])
    fields = {name: value for name, value in change.items() if hasattr(batch, name)}
    changed = replace(batch, **fields, options={k: v for k, v in change.items() if k not in fields})
    with pytest.raises(ValueError, match=message):
        changed.call(serve, changed.state)


@both
def test_indices_that_nobody_uses_are_not_looked_at(serve):
    batch = batch_of([3, 20, 0, 4], slots=[0, 1, 0, -1], spare=3)
    batch.options |= {
        "output_state_indices": int32(2, -1, 99, 99, device=DEVICE),
        "snapshots": snapshots(20, [[99], [3], [99], [99]], DEVICE),
    }
    batch.call(serve, batch.state)


def test_limits_of_the_kernel():
    batch = batch_of(slots=[0, 1])
    transposed = batch.state.transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ValueError, match="last dim of state must be contiguous"):
        batch.call(lightning_attn2_serve, transposed)
    batch = batch_of(dtype=torch.float64)
    with pytest.raises(ValueError, match="bfloat16, got"):
        batch.call(lightning_attn2_serve, batch.state)
    for d, e, name in ((257, 8, "head_dim"), (8, 257, "value_dim")):
        batch = batch_of([1], d=d, e=e)
        with pytest.raises(ValueError, match=f"{name} from 1 to 256, got 257"):
            batch.call(lightning_attn2_serve, batch.state)


@both
def test_no_gradient_is_computed(serve):
    for name in ("q", "k", "v", "state"):
        batch = batch_of(slots=[0, 1])
        getattr(batch, name).requires_grad_()
        with pytest.raises(NotImplementedError, match=r"use lightning_attn2(_torch)? for training"):
            batch.call(serve, batch.state)
        with torch.no_grad():
            assert not batch.call(serve, batch.state).requires_grad


def test_the_version_of_the_pool_counts():
    batch = batch_of(slots=[0, 1])
    before = batch.state._version
    batch.call(lightning_attn2_serve, batch.state)
    assert batch.state._version > before


def test_flops_are_those_of_the_recurrence():
    batch = batch_of(slots=[0, 1])
    with FlopCounterMode(display=False) as counter:
        batch.call(lightning_attn2_serve, batch.state)
    assert counter.get_total_flops() == 4 * 23 * 4 * 16 * 16


@pytest.mark.filterwarnings("ignore:.*torch.library.*:UserWarning")
@pytest.mark.parametrize("everything", [False, True])
def test_the_operator_is_registered_correctly(everything):
    batch = batch_of(slots=[0, 1], spare=6, pool_dtype=torch.bfloat16 if everything else torch.float32)
    optional = (None,) * 5
    if everything:
        optional = (
            int32(2, 3, device=DEVICE), torch.tensor([True, False], device=DEVICE),
            int32(7, 0, device=DEVICE), int32(4, 5, device=DEVICE)[:, None],
            torch.tensor([1, 2], device=DEVICE),
        )  # fmt: skip
    operator = torch.ops.lightning_kernels.linear_attention_serve.default
    slopes = batch.s if everything else None
    arguments = (batch.q, batch.k, batch.v, slopes, batch.state, batch.cu_seqlens, batch.state_indices)
    torch.library.opcheck(operator, (*arguments, *optional, 10 if everything else 0, 0, 0.5))


@both
def test_one_graph_to_the_compiler(serve):
    torch.compiler.reset()
    if serve is lightning_attn2_serve_torch:
        pytest.skip("it reads lengths, which breaks the graph")
    batch = batch_of(slots=[0, 1], spare=6, snapshots=snapshots(10, [[3, -1], [4, 5]], DEVICE))

    def twice(state):
        return batch.call(serve, state) + 2 * batch.call(serve, state)

    expected_pool, pool = batch.state.clone(), batch.state.clone()
    expected = twice(expected_pool)
    o = torch.compile(twice, fullgraph=True, backend="aot_eager")(pool)
    torch.testing.assert_close(o, expected)
    assert same_bits(pool, expected_pool)


def test_cpu_tensors_without_interpreter_and_the_plain_form_without_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code = (
        "import sys, torch\n"
        "import lightning_kernels as lk\n"
        "x, cu = torch.ones(2, 1, 16), torch.tensor([0, 2], dtype=torch.int32)\n"
        "batch = dict(state=torch.zeros(1, 1, 16, 16), cu_seqlens=cu, state_indices=cu[:1])\n"
        "try: lk.lightning_attn2_serve(x, x, x, **batch)\n"
        "except ValueError as e: assert 'lightning_attn2_serve_torch' in str(e)\n"
        "else: raise SystemExit('CPU tensors were taken')\n"
        "sys.modules['triton'] = None\n"
        "assert lk.lightning_attn2_serve_torch(x, x, x, **batch)[1, 0, 0] == 32\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
