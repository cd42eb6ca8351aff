"""How far states in bf16 take decoding from fp64, by how they are rounded.

Run anywhere, in the repository root:

    python benchmarks/state_rounding.py results/cpu/state-rounding.csv

Decodes TOKENS tokens of normal values, with and without a mean, in bf16 by ``lightning_attn2_step_torch``,
whose states are rounded as those of the kernel, with the slopes of some heads of a model with 64 heads and 80
layers. The errors are relative L2 errors against fp64, with the same inputs: of o over the last 256 tokens,
and of the state at the end. Rounding o itself to bf16 is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rows import write_rows
from torch import Tensor

from lightning_bench.machine import harness_commit
from lightning_kernels import layer_slopes, lightning_attn2_step_torch

TOKENS, DIM, LAST = 4096, 64, 256
MEANS = (0.0, 1.0)
"""Of q, k and v: where they have one, a state grows in one direction."""
HEADS = [(0, 0), (0, 31), (0, 63), (78, 63)]
"""Layer and head: from a steep decay to hardly any.

The last layer, 79, is a softmax layer of MiniMax-01 and Ling-2.5-1T.
"""


def decode(
    tokens: list[tuple[Tensor, ...]], s: Tensor, dtype: torch.dtype, seeded: bool
) -> tuple[Tensor, Tensor]:
    """Return the last rows of o and the state, in fp64, of decoding with a state of a dtype."""
    heads = s.shape[0]
    state = torch.zeros(1, heads, DIM, DIM, dtype=dtype)
    given = torch.float64 if dtype == torch.float64 else torch.float32
    rows = []
    for number, token in enumerate(tokens):
        seeds = torch.tensor([number]) if seeded else None
        q, k, v = (x.to(given) for x in token)
        o = lightning_attn2_step_torch(q, k, v, s, state=state, rounding_seeds=seeds, scale=DIM**-0.5)
        if number >= len(tokens) - LAST:
            rows.append(o.double())
    return torch.cat(rows), state.double()[0]


def measure(mean: float) -> Iterator[dict[str, object]]:
    """Yield a row for each head and rounding, of values of a mean."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, len(HEADS), DIM)
    tokens = [
        tuple((mean + torch.randn(shape, generator=generator)).bfloat16() for _ in range(3))
        for _ in range(TOKENS)
    ]
    slopes = torch.stack([layer_slopes(64, layer=layer, layers=80).flatten()[head] for layer, head in HEADS])
    exact_o, exact_state = decode(tokens, slopes, torch.float64, False)
    for name, dtype, seeded in (
        ("fp32", torch.float32, False),
        ("bf16, to nearest", torch.bfloat16, False),
        ("bf16, stochastic", torch.bfloat16, True),
    ):
        o, state = decode(tokens, slopes, dtype, seeded)
        for i, (layer, head) in enumerate(HEADS):
            yield {
                "layer": layer, "head": head, "slope": f"{float(slopes[i]):.3e}", "mean": mean,
                "state": name, "tokens": TOKENS, "dim": DIM,
                "o_error": f"{error(o[:, i], exact_o[:, i]):.3e}",
                "state_error": f"{error(state[i], exact_state[i]):.3e}",
                "torch": torch.__version__, "harness_commit": harness_commit(),
            }  # fmt: skip


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error."""
    return float((actual - expected).norm() / expected.norm())


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    out = parser.parse_args().out
    rows = [row for mean in MEANS for row in measure(mean)]
    write_rows(out, rows)
    for row in rows:
        print(
            *(row[name] for name in ("mean", "layer", "head", "slope", "state", "o_error", "state_error")),
            sep="  ",
        )


if __name__ == "__main__":
    main()
