"""The table of systems in docs/systems.md: providers, where they run, and results/h200/systems-speed.csv.

A cell is time per token and × floor of the row, or its status; "–" where no row has been measured.
`python -m scripts.docs_tables --write` puts it into docs/systems.md.
"""

from __future__ import annotations

from pathlib import Path

from lightning_bench.providers import get_provider
from lightning_bench.record import Record, latest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "h200" / "systems-speed.csv"

SYSTEMS: dict[str, tuple[str, ...]] = {
    "Lightning Attention-2": (
        "lightning2", "lightning-official", "fla-chunk", "fla-fused-chunk", "lightning2-torch",
    ),
    "without decay": ("lightning2-no-decay", "lightning-official-no-decay", "lightning2-no-decay-torch"),
    "Lightning Attention-1": ("lightning1", "lightning1-no-decay"),
    "softmax attention": (
        "flash2", "flash4", "xformers", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa-math",
    ),
    "RetNet (retention)": (
        "lightning2-retention", "fla-retention-parallel", "fla-retention-recurrent", "fla-retention-chunk",
        "fla-retention-fused-chunk", "retention-torch",
    ),
    "GLA": ("fla-gla-recurrent", "fla-gla-chunk", "fla-gla-fused-chunk", "gla-torch"),
    "Based": ("fla-based-parallel", "fla-based-fused-chunk", "based-torch"),
    "RWKV-6": ("fla-rwkv6-recurrent", "fla-rwkv6-chunk", "rwkv6-torch"),
    "ABC": ("fla-abc-chunk", "abc-torch"),
    "Mamba-2 (SSD)": ("fla-mamba2-chunk", "mamba2-torch"),
    "Gated DeltaNet": ("fla-gated-delta-chunk", "gated-delta-torch"),
    "KDA": ("fla-kda-chunk", "kda-torch"),
    "GateLoop": ("gateloop", "gateloop-torch"),
    "with complex gates": ("gateloop-complex", "gateloop-complex-torch"),
    "Transformer-VQ": ("vq-blockwise", "vq-sdpa"),
    "TransNormerLLM, the layer": ("transnormer-layer", "transnormer-layer-torch"),
}  # fmt: skip
SHAPES = ((8, 2048), (1, 32768))
DIRECTIONS = ("fwd", "bwd")


def table(records: list[Record]) -> str:
    """Markdown, one line a provider; ``records`` may be empty."""
    rows = {
        (r.provider, r.batch, r.seq_len, r.direction): r for r in latest(records) if r.protocol == "lbench"
    }
    head = ["system", "provider", "runs on"]
    head += [f"{direction} b{batch} n{n}" for batch, n in SHAPES for direction in DIRECTIONS]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(head) - 3)]
    for system, names in SYSTEMS.items():
        for name in names:
            cells = [system, f"`{name}`", ", ".join(get_provider(name).devices)]
            cells += [
                cell(rows.get((name, batch, n, direction))) for batch, n in SHAPES for direction in DIRECTIONS
            ]
            lines.append("| " + " | ".join(cells) + " |")
            system = ""
    return "\n".join(lines) + "\n"


def cell(record: Record | None) -> str:
    """``0.52 ns, 1.6×`` a token of one sequence of all heads, or why not; ``*`` marks ``unstable``."""
    if record is None:
        return "–"
    if record.median_ms is None:
        return record.status
    ns = record.median_ms * 1e6 / (record.batch * record.seq_len)
    ratio = "" if record.floor_ratio is None else f", {record.floor_ratio:.1f}×"
    return f"{ns:{'.0f' if ns >= 1000 else '.3g'}} ns{ratio}" + ("*" if record.status == "unstable" else "")
