"""Profiles in the terminal: one screen per profile, or two side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_bench.profile.data import Kernel, Profile
from lightning_bench.profile.kernel_names import base_name
from lightning_bench.words import counted

_MOST_LINES = 12
"""Kernels that are listed one by one; more are summed by name."""
_MOST_TENSORS = 5
_BAR = 20
_RESOURCES = ("grid", "block", "regs", "spill", "smem", "occ", "GB/s")

_Figure = Callable[[Profile], float | None]


def show(profiles: Sequence[Profile]) -> RenderableType:
    """Return one profile as a screen; of two, their figures side by side first."""
    if len(profiles) == 1:
        p = profiles[0]
        return Group(_title(p), *_calls(p), Text(), *_details(p))
    parts: list[RenderableType] = [_beside(profiles)]
    for p in profiles:
        parts += [Text(), _title(p), *_details(p)]
    return Group(*parts)


def _title(p: Profile) -> RenderableType:
    words = f", {p.variant.words}" if p.variant.words else ""
    shape = f"b{p.batch} h{p.heads} n{p.seq_len} d{p.head_dim} e{p.value_dim} {p.dtype}{words}"
    where = str(p.machine.get("device_name", p.device))
    threads = f", {counted(p.threads, 'thread')}" if p.device == "cpu" else ""
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
    grid.add_row(
        "first call", f"{t.first_call_s:.3g} s, the second {t.second_call_s:.3g} s{_CACHE[t.triton_cache]}"
    )
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
    equal = Counter((tensor.size_bytes, tensor.freed, tensor.made_by) for tensor in p.memory.allocations)
    largest = sorted(equal.items(), key=lambda item: -item[0][0] * item[1])
    lines = [
        f"{f'{count} × ' if count > 1 else ''}{_size(size)}{', freed,' if freed else ''} by "
        + (_operator(made_by) or "no operator")
        for (size, freed, made_by), count in largest[:_MOST_TENSORS]
    ]
    return "\n".join([*lines, *_rest(largest)])


def _operator(name: str) -> str:
    return name.replace("autograd::engine::evaluate_function: ", "evaluate ")


def _saved(p: Profile) -> str:
    lines = [
        f"{_size(tensor.size_bytes)} {tensor.dtype} {list(tensor.shape)}"
        + (f", which is {tensor.same_as}" if tensor.same_as else "")
        for tensor in p.memory.saved[:_MOST_TENSORS]
    ]
    return "\n".join([*lines, *_rest(p.memory.saved)])


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
    several = not gpu or len(lines) < len(p.kernels)
    table.add_column("kernel" if gpu else "operator, its own time", overflow="fold", ratio=1)
    columns = ["ms", "share", *(["runs"] if several else [])]
    for name in [*columns, *(_RESOURCES if gpu else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for kernel in lines:
        short = base_name(kernel.name) if kernel.kind == "kernel" else _operator(kernel.name)
        cells = [short, f"{kernel.time_ms:.4f}", _percent(100 * kernel.share)]
        cells += [str(kernel.count)] if several else []
        table.add_row(*(Text(cell) for cell in [*cells, *(_resources(kernel) if gpu else [])]))
    left = len({kernel.name for kernel in p.kernels}) - len(lines) if several else 0
    if left > 0:
        table.add_row(Text(f"and {left} more, in --json and --out", style="dim"))
    return table


def _resources(kernel: Kernel) -> list[str]:
    shared = None if kernel.shared_bytes is None else kernel.shared_bytes / 1024
    return [
        _by(kernel.grid),
        _by(kernel.block),
        _whole(kernel.registers),
        _whole(kernel.spills),
        "" if shared is None else f"{shared:.0f}K",
        _percent(kernel.occupancy_percent),
        _whole(kernel.gbps),
    ]


def _lines(kernels: Sequence[Kernel]) -> Sequence[Kernel]:
    """Return the kernels, or if they are many one line per name, the longest first.

    A line keeps the fields that all launches of its name share.
    """
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
        shared = {
            name: getattr(first, name) if len({getattr(member, name) for member in members}) == 1 else None
            for name in ("grid", "block", "registers", "shared_bytes", "occupancy_percent", "spills")
        }
        lines.append(
            first.model_copy(
                update={
                    **shared,
                    "count": len(members),
                    "time_ms": sum(member.time_ms for member in members),
                    "share": sum(member.share for member in members),
                    "gbps": None,
                }
            )
        )
    return sorted(lines, key=lambda line: -line.time_ms)[:_MOST_LINES]


def _counters(p: Profile) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("by Nsight Compute", overflow="fold", ratio=1)
    for name in ("ms", "read", "written", "L2", "L2 hit", "tensor", "occ", "waits for"):
        table.add_column(name, justify="right", no_wrap=True)
    counted = [kernel.counters for kernel in p.kernels if kernel.counters] or list(p.counters)
    for launch in counted[:_MOST_LINES]:
        reason = next(iter(launch.stalls.items()), None)
        cells = [
            base_name(launch.kernel),
            "" if launch.time_ms is None else f"{launch.time_ms:.4f}",
            _mib(None if launch.dram_read_bytes is None else launch.dram_read_bytes / 2**20),
            _mib(None if launch.dram_write_bytes is None else launch.dram_write_bytes / 2**20),
            _mib(None if launch.l2_bytes is None else launch.l2_bytes / 2**20),
            _percent(launch.l2_hit_percent),
            _percent(launch.tensor_percent),
            _percent(launch.occupancy_percent),
            "" if reason is None else f"{reason[0]} {_percent(100 * reason[1])}",
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
    for kernel in p.proton[:_MOST_LINES]:
        ms = f"{kernel.time_ms / p.calls:.4f}"
        table.add_row(Text(base_name(kernel.name)), Text(ms), Text(str(kernel.count)))
    return table


_CACHE = {"empty": "", "kept": "; your Triton cache was kept"}
_BOUND = {"bytes": "bytes at copy bandwidth", "flops": "FLOPs at the matmul rate"}

_FIGURES: tuple[tuple[str, str, _Figure], ...] = (
    ("device", "ms", lambda p: p.timing.device_ms),
    ("a caller waits", "ms", lambda p: p.timing.call_ms),
    ("kernels", "ms", lambda p: p.timing.kernels_ms),
    ("gaps between kernels", "ms", lambda p: p.timing.between_ms),
    ("floor", "ms", lambda p: p.roofline.floor_ms),
    ("× floor", "", lambda p: p.roofline.floor_ratio),
    ("bytes, model", "MiB", lambda p: p.roofline.model_bytes / 2**20),
    ("bytes, counted", "MiB", lambda p: None if p.dram_bytes is None else p.dram_bytes / 2**20),
    ("× model bytes", "", lambda p: p.traffic_ratio),
    ("bandwidth, model", "GB/s", lambda p: p.roofline.gbps),
    ("FLOPs, model", "TFLOP/s", lambda p: p.roofline.tflops),
    ("kernels launched", "", lambda p: float(len(p.kernels)) if p.device == "cuda" else None),
    ("memory added", "MiB", lambda p: p.memory.extra_mib),
    ("kept for backward", "MiB", lambda p: p.memory.saved_mib),
    ("first call, extra", "s", lambda p: p.timing.compile_s),
)


def _beside(profiles: Sequence[Profile]) -> Table:
    first, second = profiles
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for p in profiles:
        table.add_column(p.provider, justify="right")
    table.add_column(f"{second.provider} / {first.provider}", justify="right")
    table.add_column("")
    for name, unit, figure in _FIGURES:
        left, right = figure(first), figure(second)
        if left is None and right is None:
            continue
        ratio = f"{right / left:.2f}" if left and right is not None else ""
        table.add_row(name, _figure(left), _figure(right), ratio, unit)
    return table


def _bar(share: float, text: str) -> Text:
    filled = min(_BAR, round(share * _BAR))
    bar = Text("█" * filled).append("░" * (_BAR - filled), style="dim")
    return bar.append(f" {100 * share:3.0f} %  {text}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value >= 0.1 else f"{value:.4f} ms"


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.4g} MiB" if value < 1000 else f"{value:.0f} MiB"


def _size(size_bytes: float) -> str:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.4g} {unit}"
    return f"{size_bytes:.0f} B"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _by(sizes: tuple[int, int, int] | None) -> str:
    """Return the sizes without the ones at the end: 132x1x1 is 132."""
    if sizes is None:
        return ""
    kept = list(sizes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return "x".join(map(str, kept))
