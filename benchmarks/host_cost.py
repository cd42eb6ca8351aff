"""What one eager call takes of its caller's time: a decode step, a forward pass, forward and backward.

Run on a GPU in the repository root:

    python benchmarks/host_cost.py results/h200/host-cost.csv

Calls are short ones in bf16: batch 4, heads 32, head_dim 128, seq_len 512, or one token of each sequence. A
sample is the time until a call returns, on average over 10 calls that are enqueued onto an idle GPU, whose
queue they do not fill. Calls take turns, so that what slows the machine down slows down all of them.

- ``lightning2``: ``lightning_attn2`` and ``lightning_attn2_step``; ``lightning2-operator``: the same through
  the dispatcher of torch, as under torch.compile without CUDA graphs;
- ``fla``, if it is installed: ``chunk_simple_gla``, and for a step ``fused_recurrent_simple_gla``, which
  allocates a new state;
- ``sdpa-flash``: ``scaled_dot_product_attention`` by its flash backend, in C++; for a step one query and 512
  keys;
- ``launch-free``: an autograd function that saves q, k and v and allocates o and gradients; for a step, one
  allocation: what torch itself takes.

The CSV has a row for each of them and each kind of call: the median of the samples with the 20th and 80th
percentile, in µs, and the median over that of ``sdpa-flash``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from call_time import Nothing
from rows import kernels_version, out_path, write_rows
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_bench.machine import harness_commit
from lightning_kernels import build_slope_tensor, lightning_attn2, lightning_attn2_step

BATCH, HEADS, SEQ_LEN, DIM = 4, 32, 512, 128
CALLS, SAMPLES, WARM_CALLS = 10, 200, 50
Call = Callable[[], object]


def attention_calls(
    name: str, attention: Callable[..., Tensor], device: str
) -> Iterator[tuple[str, str, Call]]:
    """Return a provider's calls of q, k, v [b, h, n, d] by mode."""
    q, k, v, do = (draw((BATCH, HEADS, SEQ_LEN, DIM), device) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def forward() -> object:
        with torch.no_grad():
            return attention(*leaves)

    def backward() -> object:
        return torch.autograd.grad(attention(*leaves), leaves, do)

    def one_thread() -> object:
        with torch.autograd.set_multithreading_enabled(False):
            return backward()

    yield name, "fwd_no_grad", forward
    yield name, "fwd_grad", lambda: attention(*leaves)
    yield name, "fwd_bwd", backward
    yield name, "fwd_bwd_one_thread", one_thread


def draw(shape: tuple[int, ...], device: str) -> Tensor:
    """Return random numbers, in bf16 on a GPU; the interpreter has no bf16."""
    return torch.randn(shape, device=device).to(torch.bfloat16 if device == "cuda" else torch.float16)


def step_calls(device: str) -> Iterator[tuple[str, str, Call]]:
    """Return the decode steps of all providers but fla."""
    slopes = build_slope_tensor(HEADS).to(device)
    q, k, v = (draw((BATCH, HEADS, DIM), device) for _ in range(3))
    state = torch.zeros(BATCH, HEADS, DIM, DIM, device=device)
    operator = torch.ops.lightning_kernels.linear_attention_step.default
    keys, values = (draw((BATCH, HEADS, SEQ_LEN, DIM), device) for _ in range(2))
    query = q[:, :, None]
    yield "lightning2", "step", lambda: lightning_attn2_step(q, k, v, slopes, state=state)
    yield "lightning2-operator", "step", lambda: operator(q, k, v, slopes, state, 1.0)
    yield "sdpa-flash", "step", lambda: sdpa(query, keys, values)
    yield "launch-free", "step", lambda: torch.empty_like(q)


def fla_calls(device: str) -> Iterator[tuple[str, str, Call]]:
    """Return the calls of fla, whose q, k and v are [b, n, h, d]."""
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    decay = -build_slope_tensor(HEADS).to(device).flatten()

    def chunk(*qkv: Tensor) -> Tensor:
        o: Tensor = chunk_simple_gla(*(x.transpose(1, 2) for x in qkv), g_gamma=decay, scale=1.0)[0]
        return o.transpose(1, 2)

    yield from attention_calls("fla", chunk, device)
    q, k, v = (draw((BATCH, 1, HEADS, DIM), device) for _ in range(3))
    state = torch.zeros(BATCH, HEADS, DIM, DIM, device=device)
    yield (
        "fla",
        "step",
        lambda: fused_recurrent_simple_gla(
            q, k, v, g_gamma=decay, scale=1.0, initial_state=state, output_final_state=True
        ),
    )


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention of q, k, v, causal where q has as many tokens."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] == k.shape[2])


def all_calls(device: str) -> Iterator[tuple[str, str, Call]]:
    """Return every call with the name of its provider and its mode."""
    slopes = build_slope_tensor(HEADS).to(device)
    operator = torch.ops.lightning_kernels.linear_attention.default
    nothing: Any = Nothing.apply
    yield from attention_calls("lightning2", lambda *x: lightning_attn2(*x, slopes), device)
    yield from step_calls(device)
    yield from attention_calls(
        "lightning2-operator", lambda *x: operator(*x, slopes, None, None, 1.0, False)[0], device
    )
    yield from attention_calls("sdpa-flash", sdpa, device)
    yield from attention_calls("launch-free", lambda *x: nothing(*x), device)
    if find_spec("fla") is None:
        print("no rows of fla, which is not installed", file=sys.stderr)
    elif device == "cuda":
        yield from fla_calls(device)


def host_us(call: Call, count: int, sync: Callable[[], None]) -> float:
    """Return the time of a call until it returns, in a run of `count` that starts on an idle device."""
    sync()
    begin = time.perf_counter_ns()
    for _ in range(count):
        call()
    elapsed = time.perf_counter_ns() - begin
    sync()
    return elapsed / count / 1e3


def measure(device: str, samples: int, warm_calls: int) -> list[dict[str, object]]:
    """Return the rows of all calls."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    calls = list(all_calls(device))
    taken: list[list[float]] = [[] for _ in calls]
    for _, _, call in calls:
        for _ in range(warm_calls):
            call()
    for _ in range(samples):
        for (_, mode, call), times in zip(calls, taken, strict=True):
            with torch.inference_mode(mode == "step"):
                times.append(host_us(call, CALLS, sync))
    medians = {(name, mode): float(np.median(x)) for (name, mode, _), x in zip(calls, taken, strict=True)}
    return [
        {
            "provider": name,
            "mode": mode,
            "batch": BATCH,
            "heads": HEADS,
            "seq_len": 1 if mode == "step" else SEQ_LEN,
            "head_dim": DIM,
            "median_us": f"{np.median(times):.2f}",
            "p20_us": f"{np.percentile(times, 20):.2f}",
            "p80_us": f"{np.percentile(times, 80):.2f}",
            "samples": len(times),
            "ratio_to_sdpa": f"{np.median(times) / medians['sdpa-flash', mode]:.3f}",
            "device_name": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
            "torch": torch.__version__,
            "triton": version("triton"),
            "python": sys.version.split()[0],
            "provider_version": kernels_version() if name.startswith("lightning2") else "",
            "harness_commit": harness_commit(),
        }
        for (name, mode, _), times in zip(calls, taken, strict=True)
    ]


def main() -> None:
    """Measure, print, write the CSV."""
    out = out_path(__doc__)
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        rows = measure("cuda", SAMPLES, WARM_CALLS)
    write_rows(out, rows)
    for row in rows:
        print(*(row[name] for name in ("provider", "mode", "median_us", "p20_us", "p80_us", "ratio_to_sdpa")))


if __name__ == "__main__":
    main()
