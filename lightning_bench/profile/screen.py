"""Profiles as people see them: one screen a profile, or two side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_bench.profile.counters import base_name
from lightning_bench.profile.model import Kernel, Profile
from lightning_bench.profile.trace import PYTHON

_MOST_LINES = 12
"""Kernels that are listed one by one; more are summed up by name."""
_MOST_TENSORS = 5
_BAR = 20

_Figure = Callable[[Profile], float | None]


def show(profiles: Sequence[Profile]) -> RenderableType:
    """One profile whole; two with their figures side by side first."""
    if len(profiles) == 1:
        p = profiles[0]
        return Group(_title(p), *_calls(p), Text(), *_details(p))
    parts: list[RenderableType] = [_beside(profiles)]
    for p in profiles:
        parts += [Text(), _title(p), *_details(p)]
    return Group(*parts)


def _title(p: Profile) -> RenderableType:
    shape = f"b{p.batch} h{p.heads} n{p.seq_len} d{p.head_dim} e{p.value_dim} {p.dtype}"
    where = str(p.machine.get("device_name", p.device))
    threads = f", {p.threads} threads" if p.device == "cpu" else ""
    title = Text(f"{p.provider} {p.direction}", style="bold").append(f"  {shape}  {where}{threads}", style="")
    return Group(title, Text(p.provider_config, style="dim")) if p.provider_config else title


def _calls(p: Profile) -> Iterator[RenderableType]:
    t, r, m = p.timing, p.roofline, p.memory
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    times = f"device {_ms(t.device_ms)}, a caller waits {_ms(t.call_ms)}"
    if t.kernels_ms is not None and t.between_ms is not None and t.enqueue_ms is not None:
        times += (
            f"; kernels {_ms(t.kernels_ms)}, gaps between them {_ms(t.between_ms)}, "
            f"on the CPU {_ms(t.enqueue_ms)}"
        )
    grid.add_row("time", times)
    grid.add_row("first call", f"{t.first_call_s:.2f} s, the second {t.second_call_s:.3g} s")
    grid.add_row("floor", f"{_ms(r.floor_ms)}, set by {_BOUND[r.bound_by]}; this call {r.floor_ratio:.2f} ×")
    grid.add_row("bytes", _bar(r.bandwidth_share, f"{r.gbps:.4g} of {r.ceiling_gbps:.4g} GB/s, by the model"))
    moved, ratio = p.dram_bytes, p.traffic_ratio
    if moved is not None and ratio is not None:
        rate = moved / t.device_ms / 1e6
        grid.add_row("", _bar(rate / r.ceiling_gbps, f"{rate:.4g} GB/s as counted: {ratio:.2f} × the model"))
    grid.add_row("FLOPs", _bar(r.rate_share, f"{r.tflops:.3g} of {r.ceiling_tflops:.3g} TFLOP/s"))
    grid.add_row("memory", _memory(p))
    for kind, sizes in (("allocated", _allocated(p)), ("saved", _saved(p))):
        if sizes:
            grid.add_row(kind, sizes)
    if m.reserved_mib is not None:
        grid.add_row("", f"peak {_mib(m.peak_mib)}, reserved {_mib(m.reserved_mib)}")
    yield grid
    yield Text(f"ceilings: {r.ceilings_from}", style="dim")


def _memory(p: Profile) -> str:
    m = p.memory
    text = f"adds {_mib(m.extra_mib)} to {_mib(m.ideal_mib)} of results alone"
    return text if m.saved_mib is None else f"{text}; keeps {_mib(m.saved_mib)} for backward"


def _allocated(p: Profile) -> str:
    largest = sorted(p.memory.allocations, key=lambda one: -one.size_bytes)
    lines = [
        f"{_mib(one.size_bytes / 2**20)} {'(freed) ' if one.freed else ''}by {one.made_by or 'no operator'}"
        for one in largest[:_MOST_TENSORS]
    ]
    return "\n".join([*lines, *_rest(largest)])


def _saved(p: Profile) -> str:
    saved = p.memory.saved
    lines = [
        f"{_mib(one.size_bytes / 2**20)} {one.dtype} {list(one.shape)}"
        + (f", which is {one.same_as}" if one.same_as else "")
        for one in saved[:_MOST_TENSORS]
    ]
    return "\n".join([*lines, *_rest(saved)])


def _rest(tensors: Sequence[object]) -> list[str]:
    left = len(tensors) - _MOST_TENSORS
    return [f"and {left} more"] if left > 0 else []


def _details(p: Profile) -> Iterator[RenderableType]:
    yield _kernels(p)
    if any(kernel.counters for kernel in p.kernels) or p.counters:
        yield Text()
        yield _counters(p)
    if p.proton:
        yield Text()
        yield _proton(p)
    yield Text()
    for reading in p.readings:
        yield Text(f"• {reading.text}")
    for note in p.notes:
        yield Text(f"  {note}", style="dim")


def _kernels(p: Profile) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    gpu = p.device == "cuda"
    lines = _lines(p.kernels)
    summed = len(lines) < len(p.kernels)
    columns = ["#", "ms", "share"]
    columns += ["grid", "block", "regs", "spill", "smem", "occ", "GB/s"] if gpu else ["runs"]
    table.add_column("kernel" if gpu else "operator, its own time", overflow="fold", ratio=1)
    for name in columns if not gpu or summed else columns[1:]:
        if name != "#" or summed:
            table.add_column(name if name != "#" else "×", justify="right", no_wrap=True)
    for kernel in lines:
        cells = [base_name(kernel.name) if kernel.name != PYTHON else PYTHON]
        cells += [str(kernel.count)] if summed and gpu else []
        cells += [f"{kernel.time_ms:.4f}", f"{kernel.share:.0%}"]
        cells += _resources(kernel) if gpu else [str(kernel.count)]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _resources(kernel: Kernel) -> list[str]:
    shared = None if kernel.shared_bytes is None else kernel.shared_bytes / 1024
    return [
        _by(kernel.grid),
        _by(kernel.block),
        _whole(kernel.registers),
        _whole(kernel.spills),
        "" if shared is None else f"{shared:.0f}K",
        "" if kernel.occupancy_percent is None else f"{kernel.occupancy_percent:.0f}%",
        _whole(kernel.gbps),
    ]


def _lines(kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    """The kernels, or where they are many one line a name, the longest first, with what its launches share."""
    if len(kernels) <= _MOST_LINES:
        return kernels
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.name, []).append(kernel)
    if all(kernel.kind == "op" for kernel in kernels):
        return kernels[:_MOST_LINES]
    lines = []
    for members in groups.values():
        first = members[0]
        alike = {
            name: getattr(first, name) if len({getattr(one, name) for one in members}) == 1 else None
            for name in ("grid", "block", "registers", "shared_bytes", "occupancy_percent", "spills")
        }
        lines.append(
            first.model_copy(
                update={
                    **alike,
                    "count": len(members),
                    "time_ms": sum(one.time_ms for one in members),
                    "share": sum(one.share for one in members),
                    "gbps": None,
                }
            )
        )
    return sorted(lines, key=lambda one: -one.time_ms)[:_MOST_LINES]


def _counters(p: Profile) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("by Nsight Compute", overflow="fold", ratio=1)
    for name in ("ms", "read", "written", "L2", "L2 hit", "tensor", "occ", "waits for"):
        table.add_column(name, justify="right", no_wrap=True)
    counted = [kernel.counters for kernel in p.kernels if kernel.counters] or list(p.counters)
    for one in counted[:_MOST_LINES]:
        reason = next(iter(one.stalls.items()), None)
        cells = [
            base_name(one.kernel),
            "" if one.time_ms is None else f"{one.time_ms:.4f}",
            _mib(None if one.dram_read_bytes is None else one.dram_read_bytes / 2**20),
            _mib(None if one.dram_write_bytes is None else one.dram_write_bytes / 2**20),
            _mib(None if one.l2_bytes is None else one.l2_bytes / 2**20),
            _percent(one.l2_hit_percent),
            _percent(one.tensor_percent),
            _percent(one.occupancy_percent),
            "" if reason is None else f"{reason[0]} {reason[1]:.0%}",
        ]
        table.add_row(*(Text(cell) for cell in cells))
    if len(counted) > _MOST_LINES:
        table.add_row(Text(f"and {len(counted) - _MOST_LINES} more, in --out"))
    return table


def _proton(p: Profile) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("by Proton", overflow="fold", ratio=1)
    table.add_column("ms a call", justify="right", no_wrap=True)
    table.add_column("launches", justify="right", no_wrap=True)
    for one in p.proton[:_MOST_LINES]:
        ms = f"{one.time_ms / p.calls:.4f}"
        table.add_row(Text(base_name(one.name)), Text(ms), Text(str(one.count)))
    return table


_BOUND = {"bytes": "bytes at copy bandwidth", "flops": "FLOPs at the matmul rate"}

_FIGURES: tuple[tuple[str, str, _Figure], ...] = (
    ("device", "ms", lambda p: p.timing.device_ms),
    ("a caller waits", "ms", lambda p: p.timing.call_ms),
    ("kernels", "ms", lambda p: p.timing.kernels_ms),
    ("gaps between kernels", "ms", lambda p: p.timing.between_ms),
    ("floor", "ms", lambda p: p.roofline.floor_ms),
    ("× floor", "", lambda p: p.roofline.floor_ratio),
    ("bytes by the model", "MiB", lambda p: p.roofline.model_bytes / 2**20),
    ("DRAM bytes counted", "MiB", lambda p: None if p.dram_bytes is None else p.dram_bytes / 2**20),
    ("× the model's bytes", "", lambda p: p.traffic_ratio),
    ("bandwidth by the model", "GB/s", lambda p: p.roofline.gbps),
    ("FLOPs by the model", "TFLOP/s", lambda p: p.roofline.tflops),
    ("kernels launched", "", lambda p: float(len(p.kernels)) if p.device == "cuda" else None),
    ("memory added", "MiB", lambda p: p.memory.extra_mib),
    ("kept for backward", "MiB", lambda p: p.memory.saved_mib),
    ("first call above the second", "s", lambda p: p.timing.compile_s),
)


def _beside(profiles: Sequence[Profile]) -> Table:
    first, second = profiles
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for p in profiles:
        table.add_column(p.provider, justify="right")
    table.add_column(f"{second.provider} / {first.provider}", justify="right")
    table.add_column("")
    for name, unit, figure in _FIGURES:
        one, other = figure(first), figure(second)
        if one is None and other is None:
            continue
        ratio = f"{other / one:.2f}" if one and other is not None else ""
        table.add_row(name, _figure(one), _figure(other), ratio, unit)
    return table


def _bar(share: float, text: str) -> Text:
    filled = min(_BAR, round(share * _BAR))
    bar = Text("█" * filled).append("░" * (_BAR - filled), style="dim")
    return bar.append(f" {share:4.0%}  {text}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value >= 0.1 else f"{value:.4f} ms"


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.4g} MiB" if value < 1000 else f"{value:.0f} MiB"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}%"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _by(sizes: tuple[int, int, int] | None) -> str:
    """Sizes without the ones at the end: 132x1x1 is 132."""
    if sizes is None:
        return ""
    kept = list(sizes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return "x".join(map(str, kept))
