"""The options of `speed`, `memory` and `check`: axes, devices and limits of the command line as values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, get_args

from lightning_bench.case import DEVICES, DIRECTIONS, DTYPES, Device, Direction, Dtype, ProtocolName
from lightning_bench.errors import UsageError
from lightning_bench.run.chosen_slots import Chosen, choose_slots
from lightning_bench.run.planner import Settings, measuring_limits
from lightning_bench.suite import Overrides, parse_ints, parse_words
from lightning_bench.suite.axes import did_you_mean

Lengths = int | str | Sequence[int]
"""One length, several, or text of the command line such as `"512,4096"` and `"512..32768"`."""


class MeasureOptions(TypedDict, total=False):
    """Options that `speed`, `memory` and `check` share; what is left out is as the suite has it.

    `head_dim` is that of q and k, `value_dim` that of v and o; `layer`, `rank` and `packing` are texts as in
    a suite, such as "79 of 80" and "96k + 31 x 1k"; `ranks` are processes with a device each, on which the
    tokens of a sequence lie. `provider` replaces the suite's providers, or joins them with `+` before each
    name. `layout` is that of plain functions, `bhnd` if left out. A case may take `time_limit_s` seconds.
    `gpus` measures on several at once, a shape on each: "all", numbers, UUIDs, or "cpu:2"; `executor` says
    who gives them out, and `shard`, such as "2/8", which part of the suite is measured. `fresh` sets an
    existing `out` aside, `retry` measures again what failed there. `progress=False` prints nothing.
    """

    provider: str | Sequence[str]
    seq_len: Lengths
    head_dim: Lengths
    value_dim: Lengths
    batch: Lengths
    heads: Lengths
    dtype: Dtype | Sequence[Dtype]
    direction: Direction | Sequence[Direction]
    kv_heads: Lengths
    layer: str | Sequence[str]
    rank: str | Sequence[str]
    packing: str | Sequence[str]
    ranks: Lengths
    layout: str
    device: Device
    time_limit_s: float
    gpus: int | str | Sequence[int | str]
    executor: Literal["local", "ray", "slurm"]
    shard: str
    protocol: ProtocolName
    fresh: bool
    retry: bool
    progress: bool


class SpeedOptions(MeasureOptions, total=False):
    """Those of `speed`: also CUDA-graph replays (`graph`), processes per case, and a first look (`quick`)."""

    graph: bool
    processes: int
    quick: bool


_FLAGS = {"fresh", "retry", "progress", "graph", "quick"}


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float; True and False are neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_flag(value: object, name: str) -> None:
    """Raise UsageError for what is neither True nor False: "no" would count as yes."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is neither True nor False")


def check_names(given: Mapping[str, Any], allowed: Collection[str], what: str) -> None:
    """Raise UsageError for an option that `what` does not have."""
    if unknown := [name for name in given if name not in allowed]:
        hint = did_you_mean(unknown[0], allowed)
        raise UsageError(f"{what} has no option {unknown[0]}{hint}; allowed: {', '.join(sorted(allowed))}")


def overrides_of(options: SpeedOptions, providers: Overrides) -> Overrides:
    """Return `providers` with the axes that replace the suite's. UsageError names a wrong option."""
    axes: dict[str, Any] = {}
    for name in ("seq_len", "head_dim", "value_dim", "batch", "heads", "kv_heads", "ranks"):
        if name in options:
            axes[name] = _lengths(options[name], name)
    if "dtype" in options:
        axes["dtype"] = parse_words(_text(options["dtype"]), DTYPES, "dtype")
    if "direction" in options:
        axes["direction"] = parse_words(_text(options["direction"]), DIRECTIONS, "direction")
    texts: tuple[Literal["layer", "rank", "packing"], ...] = ("layer", "rank", "packing")
    axes |= {name: tuple(_words(options[name], name)) for name in texts if name in options}
    return replace(providers, **axes)


def settings_of(options: SpeedOptions) -> Settings:
    """Return the settings of a plan; UsageError for a device, a protocol, a limit or a flag that is wrong."""
    for name in _FLAGS & options.keys():
        check_flag(options.get(name), name)
    seconds = options.get("time_limit_s")
    if seconds is not None and not (is_number(seconds) and seconds >= 0.1):
        raise UsageError(f"time_limit_s {seconds!r} is no time limit; allowed: from 0.1 s")
    processes = options.get("processes")
    if processes is not None and not (type(processes) is int and 1 <= processes <= 30):
        raise UsageError(f"processes {processes!r} is out of range; allowed: 1 to 30")
    device, protocol = options.get("device"), options.get("protocol")
    return Settings(
        device=device and parse_words(_text(device), DEVICES, "device")[0],
        time_limit_s=seconds,
        protocol=protocol and parse_words(_text(protocol), get_args(ProtocolName), "protocol")[0],
        graph=options.get("graph"),
        limits=measuring_limits(quick=options.get("quick", False), processes=processes),
    )


def slots_of(options: SpeedOptions) -> Chosen:
    """Return the slots to measure on, which the caller closes, and the part of the suite; UsageError."""
    gpus = None
    if "gpus" in options:
        words: list[Any] = listed(options["gpus"])
        if odd := [word for word in words if type(word) not in (int, str)]:
            raise UsageError(
                f'gpus: {odd[0]!r} is neither number nor text; allowed: "all", numbers or UUIDs of `lbench '
                'gpus`, and "cpu:2" for a CPU; leave gpus out for one device'
            )
        gpus = ",".join(map(str, words))
    texts = {name: options.get(name) for name in ("executor", "shard", "device")}
    if wrong := [name for name, text in texts.items() if not isinstance(text, str | None)]:
        raise UsageError(f"{wrong[0]} {texts[wrong[0]]!r} is no text")
    return choose_slots(gpus, options.get("executor"), options.get("shard"), device=options.get("device"))


def listed(value: Any) -> list[Any]:
    """Return a list of one value or several; text with commas is several names."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _words(value: Any, name: str) -> list[str]:
    words = listed(value)
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise UsageError(f'{name}: {wrong[0]!r} is no text; allowed: texts as in suites, such as "79 of 80"')
    return words


def _lengths(value: Lengths, name: str) -> tuple[int, ...]:
    return parse_ints(value, name) if isinstance(value, str) else tuple(listed(value))


def _text(value: str | Sequence[str]) -> str:
    return ",".join(map(str, listed(value)))  # what is no text, as torch.float32, is named as no word
