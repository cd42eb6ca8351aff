"""The table of docs/scale.md: a model of the time of context-parallel attention, from measured passes.

`python -m scripts.docs_tables --write` puts it into docs/scale.md, which says what it assumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_bench.record import read_records

RESULTS = Path(__file__).parents[1] / "results" / "h200" / "paper-speed.csv"
HEADS, DIM = 64, 128
STATE_BYTES = HEADS * DIM * DIM * 4
HOST = 8  # GPUs of one host
NVLINK, NETWORK = 450e9, 400e9  # bytes/s that a GPU receives inside its host, and a host from the others
STEP_S = 5e-6  # latency of a step of the collective, of which there are as many as doublings of the ranks
RANKS, TOKENS = (2, 8, 16, 64, 256, 1024), (32768, 131072)
HEAD = (
    "ranks",
    "tokens of a rank",
    "a rank receives in a pass, MiB",
    "gathering, ms",
    "forward and backward alone, ms",
    "share of it with slow decay",
    "with fast decay",
)


def gather_s(ranks: int) -> float:
    """Return the time in which every rank gets the states of all others."""
    inside = (min(ranks, HOST) - 1) * STATE_BYTES / NVLINK
    across = max(0, ranks - HOST) * STATE_BYTES / NETWORK
    return inside + across + STEP_S * (ranks - 1).bit_length()


def share(ranks: int, tokens: int) -> tuple[float, float, float]:
    """Return ms of forward and backward alone, and their share of the time with slow and with fast decay."""
    rows = [
        r
        for r in read_records(RESULTS)
        if r.provider == "lightning2" and (r.head_dim, r.dtype) == (DIM, "bf16")
    ]
    longest = max(rows, key=lambda r: r.seq_len)
    measured = {r.direction: r.median_ms or 0.0 for r in rows if r.seq_len == longest.seq_len}
    part = tokens * HEADS / (longest.batch * longest.heads * longest.seq_len)  # of tokens times heads
    alone = part * (measured["fwd"] + measured["bwd"])
    # k and v, and q and the gradient of o, once: together what a forward pass moves.
    states = part * measured["fwd"]
    gather = 1e3 * gather_s(ranks)
    return alone, alone / (alone + states + 2 * gather), alone / (alone + 2 * gather)


def lines() -> Iterator[tuple[str, ...]]:
    """Yield the cells of each line."""
    for ranks in RANKS:
        for tokens in TOKENS:
            alone, slow, fast = share(ranks, tokens)
            yield (
                str(ranks),
                str(tokens),
                f"{(ranks - 1) * STATE_BYTES / 2**20:.0f}",
                f"{1e3 * gather_s(ranks):.2f}",
                f"{alone:.2f}",
                f"{slow:.0%}",
                f"{fast:.0%}",
            )
