"""The state of this process that a provider can change under all others: read, compared, restored.

Each setting says what its change means for figures. `timing`: calls under it are timed unlike all others.
`named`: it can make another provider fail. `silent`: restored and not reported, for every library uses it.
Variables that are added to os.environ and folders added to sys.path stay: libraries read them again later.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch

from lightning_bench.measure.device.persisting_l2 import PersistingL2, loaded_driver
from lightning_bench.measure.interposed import kernels_of_python

Effect = Literal["timing", "named", "silent"]

_SHOWN = 40
_UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Setting:
    """One part of the state; `write` is None where it cannot be undone."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None
    effect: Effect = "timing"
    same: Callable[[Any, Any], bool] = operator.eq
    told: Callable[[Any, Any], str] | None = None
    group: str = ""
    """Settings that change together: one is named for all."""
    slow: bool = False
    """Takes too long to read between turns of a few milliseconds."""

    def describe(self, before: Any, now: Any) -> str:
        """Return `NAME from BEFORE to NOW`."""
        if self.told is not None:
            return f"{self.name}{self.told(before, now)}"
        return f"{self.name} from {_short(before)} to {_short(now)}"


@dataclass(frozen=True)
class Change:
    """One setting that differs; `restored` unless it cannot be undone."""

    setting: Setting
    text: str
    restored: bool = True

    def __str__(self) -> str:
        return f"it changed {self.text}; {'restored' if self.restored else 'it cannot be restored'}"


@dataclass(frozen=True)
class ProcessState:
    """The values of all settings at one moment, by name."""

    values: Mapping[str, object]

    @classmethod
    def read(cls) -> ProcessState:
        """Return the present state."""
        return cls({setting.name: _read(setting) for setting in SETTINGS})

    def differing(self, *, quick: bool = False) -> dict[Setting, Any]:
        """Return the settings that differ now, with their values; `quick` leaves out the slow ones."""
        present = {setting: _read(setting) for setting in SETTINGS if not (quick and setting.slow)}
        return {
            setting: value
            for setting, value in present.items()
            if self.values[setting.name] is not None and not setting.same(self.values[setting.name], value)
        }

    def restore(self, *, quick: bool = False) -> list[Change]:
        """Restore what differs and return it, without what is silent."""
        found = self.differing(quick=quick)
        left = found
        for _ in range(2):  # some settings change others
            for setting in left:
                if setting.write is not None:
                    with contextlib.suppress(Exception):
                        setting.write(self.values[setting.name])
            left = self.differing() if left else {}
        named: dict[str, Change] = {}
        for setting, value in found.items():
            text = setting.describe(self.values[setting.name], value)
            if setting.effect != "silent" or setting in left:
                key = setting.group or setting.name
                if key not in named or _UNREADABLE in named[key].text:
                    named[key] = Change(setting, text, restored=setting not in left)
        return list(named.values())


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception as error:  # torch refuses to read a contradictory precision, Linux a deleted folder
        return f"{_UNREADABLE} ({type(error).__name__})"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _flag(path: str, *, group: str = "") -> Setting | None:
    """Return the setting of an attribute of torch, or None if this version of torch has none."""
    owner, _, name = path.rpartition(".")
    place: Any = torch
    for part in filter(None, owner.split(".")):
        place = getattr(place, part, None)
    try:
        getattr(place, name)
    except AttributeError:
        return None
    except RuntimeError:
        pass
    return Setting(
        f"torch.{path}", lambda: getattr(place, name), lambda value: setattr(place, name, value), group=group
    )


def _default_device() -> tuple[str, bool]:
    """Return the default device, and whether torch asks a mode at each call, as it does once one is set."""
    return str(torch.get_default_device()), torch.overrides.has_torch_function((1,))


def _flushes_denormals() -> bool:
    smallest = sys.float_info.min
    return smallest / 2 == 0.0


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _handlers() -> dict[int, Any]:
    numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    return {int(number): signal.getsignal(number) for number in sorted(numbers)}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _told_handlers(before: dict[int, Any], now: dict[int, Any]) -> str:
    changed = (number for number, handler in before.items() if now[number] != handler)
    names = [signal.Signals(n).name if n in set(signal.Signals) else str(n) for n in changed]
    return " of " + ", ".join(names)


def _lost(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [name for name, value in before.items() if now.get(name) != value]


def _set_path(before: list[str]) -> None:
    sys.path[:] = [folder for folder in sys.path if folder not in before] + before


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # makes modules forget what they have warned of
    cast(list[Any], warnings.filters)[:] = filters


def _cuda_states() -> list[bytes] | None:
    if not torch.cuda.is_initialized():
        return None
    return [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]


def _l2_set_aside() -> int | None:
    return PersistingL2(loaded_driver()).set_aside if torch.cuda.is_initialized() else None


def _set_l2_set_aside(size: int) -> None:
    PersistingL2(loaded_driver()).set_aside = size


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _numpy_state() -> tuple[Any, ...] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    kind, keys, *rest = numpy.random.get_state()
    return (kind, keys.tobytes(), *rest)


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    numpy = sys.modules["numpy"]
    numpy.random.set_state((state[0], numpy.frombuffer(state[1], dtype=numpy.uint32), *state[2:]))


def _settings() -> Iterator[Setting | None]:
    yield Setting("torch.get_num_threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting("torch.get_num_interop_threads", torch.get_num_interop_threads, None)
    yield Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled, "named")
    yield Setting("inference mode", torch.is_inference_mode_enabled, None)
    yield Setting("torch.get_default_dtype", torch.get_default_dtype, torch.set_default_dtype, "named")
    yield Setting(
        "torch's default device",
        _default_device,
        lambda value: torch.set_default_device(value[0] if value[1] else None),
        told=lambda before, now: f" to {now[0]}, which each call then asks for",
    )
    yield Setting(
        "torch.get_float32_matmul_precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        group="fp32",
    )
    yield _flag("backends.cuda.matmul.allow_tf32", group="fp32")
    yield _flag("backends.cudnn.allow_tf32", group="fp32")
    for part in ("", "cuda.matmul.", "cudnn.", "cudnn.conv.", "cudnn.rnn.", "mkldnn.", "mkldnn.matmul."):
        yield _flag(f"backends.{part}fp32_precision", group="fp32")
    for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        yield _flag(f"backends.cuda.matmul.{name}")
    for name in ("enabled", "benchmark", "deterministic"):
        yield _flag(f"backends.cudnn.{name}")
    cuda = torch.backends.cuda
    yield Setting("flash SDPA", cuda.flash_sdp_enabled, cuda.enable_flash_sdp)
    yield Setting("memory-efficient SDPA", cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp)
    yield Setting("math SDPA", cuda.math_sdp_enabled, cuda.enable_math_sdp)
    yield Setting("cuDNN SDPA", cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp)
    yield Setting(
        "torch.use_deterministic_algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        told=lambda before, now: f" from {before[0]} to {now[0]}",
    )
    yield Setting(
        "the bytes of the L2 that are set aside for persisting lines", _l2_set_aside, _set_l2_set_aside
    )
    yield Setting("flush-denormal", _flushes_denormals, torch.set_flush_denormal)
    yield Setting(
        "kernels of torch's operators",
        kernels_of_python,
        None,
        told=lambda before, now: f" ({_short(', '.join(sorted(before ^ now)))})",
    )
    yield Setting("anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly)
    for device in ("cpu", "cuda"):
        yield Setting(
            f"autocast on {device}",
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
        )
    if hasattr(os, "sched_getaffinity"):
        yield Setting(
            "CPU affinity", lambda: sorted(os.sched_getaffinity(0)), lambda to: os.sched_setaffinity(0, to)
        )
    yield Setting(
        "nice",
        lambda: os.getpriority(os.PRIO_PROCESS, 0),
        lambda to: os.setpriority(os.PRIO_PROCESS, 0, to),
    )
    yield Setting("gc.isenabled", gc.isenabled, lambda on: gc.enable() if on else gc.disable())
    yield Setting("gc.get_threshold", gc.get_threshold, lambda to: gc.set_threshold(*to))
    yield Setting("sys.getswitchinterval", sys.getswitchinterval, sys.setswitchinterval)
    yield Setting("sys.getrecursionlimit", sys.getrecursionlimit, sys.setrecursionlimit, "named")
    yield Setting("the working folder", os.getcwd, os.chdir, "named")
    yield Setting("umask", _umask, os.umask, "named")
    yield Setting(
        "os.environ",
        lambda: dict(os.environ),
        os.environ.update,
        "named",
        same=lambda before, now: not _lost(before, now),
        told=lambda before, now: f" ({_short(', '.join(_lost(before, now)))})",
    )
    yield Setting("signal handlers", _handlers, _set_handlers, "named", told=_told_handlers)
    yield Setting(
        "sys.path",
        lambda: list(sys.path),
        _set_path,
        "named",
        same=lambda before, now: set(before) <= set(now),
        told=lambda before, now: f", from which {len(set(before) - set(now))} folders are missing",
    )
    yield Setting("warnings.filters", lambda: list(warnings.filters), _set_filters, "silent")
    yield Setting(
        "torch's RNG",
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda to: torch.set_rng_state(_tensor(to)),
        "silent",
    )
    yield Setting(
        "CUDA's RNG",
        _cuda_states,
        lambda to: torch.cuda.set_rng_state_all([_tensor(state) for state in to]),
        "silent",
        slow=True,
    )
    yield Setting("numpy's RNG", _numpy_state, _set_numpy_state, "silent", slow=True)
    yield Setting("random", random.getstate, random.setstate, "silent", slow=True)


SETTINGS: tuple[Setting, ...] = tuple(setting for setting in _settings() if setting is not None)
