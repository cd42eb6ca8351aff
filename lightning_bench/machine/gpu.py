"""The GPU that CUDA calls 0 in this process: found once, by UUID, for both the row and the clocks.

Nothing else in lightning-bench reads CUDA_VISIBLE_DEVICES. NVML counts GPUs by the bus and hides none. CUDA
counts those that the variable leaves, from the fastest one unless CUDA_DEVICE_ORDER says otherwise, and the
slices of a GPU in MIG mode. So an index means one GPU to NVML and may mean another to CUDA; a UUID does not.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning_bench.errors import UsageError
from lightning_bench.machine.software import why_no_cuda_build


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, as CUDA sees it, and the GPU that its sensors belong to.

    NVML gives neither clocks nor power of a MIG slice: `board_uuid` is that of the GPU that it is cut from,
    whose clock all slices share and whose power is the sum over them. It is `""` if no NVML device has the
    UUID that torch gives; then there are no readings. `uuid` is the slice's own if that is known.
    """

    name: str
    capability: str
    driver: str
    board_uuid: str
    uuid: str = ""

    @property
    def mig(self) -> str:
        """Return the profile of a MIG slice, such as `1g.18gb`; `off` for a whole GPU."""
        found = re.search(r"\bMIG (\S+)", self.name)
        return found[1] if found else "off"


@dataclass(frozen=True)
class BoardLimits:
    """What bounds the speed of a GPU besides its kind; None, or `""`, is what it does not say."""

    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    ecc: str = ""


def cuda_gpu() -> Gpu:
    """Return the GPU that CUDA calls 0 in this process.

    CUDA_VISIBLE_DEVICES decides if it can. torch, imported if necessary, decides if CUDA is initialized in
    this process already, if CUDA chooses the order of unlike GPUs, and for MIG slices. Raises UsageError,
    with the reason, if there is no such GPU.
    """
    with _nvml() as nvml:
        found = _find(nvml)
        if isinstance(found, str):
            raise _no_device(found)
        if found.name and not _torch_is_on_a_gpu():
            return found
        return _told_by_torch(nvml, found)


def why_no_gpu() -> str:
    """Return why CUDA has no GPU in this process, or `""` if it has one. Never imports torch."""
    with _nvml() as nvml:
        found = _find(nvml)
    return found if isinstance(found, str) else ""


def visible_gpus() -> int:
    """Return how many GPUs CUDA may use in this process; a GPU in MIG mode counts as one."""
    with _nvml() as nvml:
        return 0 if isinstance(_find(nvml), str) else len(_visible(nvml))


def use_gpu(number: int) -> None:
    """Let CUDA see only the GPU that it calls `number`, in this process and in those that it starts.

    Call it before CUDA is initialized here. Raises UsageError if there is no such GPU.
    """
    with _nvml() as nvml:
        if isinstance(found := _find(nvml), str):
            raise _no_device(found)
        visible = _visible(nvml)
    if number >= len(visible):
        raise UsageError(f"device cuda:{number} is not here; allowed: cuda:0 to cuda:{len(visible) - 1}")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number]


def see_only(gpu: Gpu) -> None:
    """Let CUDA see only this GPU or MIG slice, in this process and in those that it starts.

    Call it before CUDA is initialized here.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid


@contextmanager
def seeing_only(gpu: Gpu) -> Iterator[None]:
    """Let CUDA see only this GPU or MIG slice in the block, as `see_only` does."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    see_only(gpu)
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def usable_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA may use in this process; of one in MIG mode its slices, each as a GPU.

    Their order is that of CUDA_VISIBLE_DEVICES, or the bus. Raises UsageError if there is none, or if
    CUDA_VISIBLE_DEVICES counts unlike GPUs in CUDA's own order, which only CUDA knows.
    """
    with _nvml() as nvml:
        if isinstance(found := _find(nvml), str):
            raise UsageError(f"no CUDA device: {found}")
        boards = _boards(nvml)
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        entries = [board.uuid for board in boards] if variable is None else _entries(variable)
        by_number = variable is not None and all(entry.isdecimal() for entry in entries)
        by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if by_number and not by_bus and len({board.name for board in boards}) > 1:
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={variable!r} counts unlike GPUs in an order that only CUDA knows: set "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID too, or give UUIDs"
            )
        return [
            gpu
            for entry in entries
            for board in (boards[int(entry) :][:1] if entry.isdecimal() else boards)
            for gpu in _gpus_of(nvml, board, found.driver)
            if entry.isdecimal() or gpu.uuid.startswith(entry) or board.uuid.startswith(entry)
        ]


def _gpus_of(nvml: Any, board: _Board, driver: str) -> list[Gpu]:
    """Return the board as a GPU, or its MIG slices."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(board.handle)
    if not board.sliced:
        return [Gpu(board.name, f"{major}.{minor}", driver, board.uuid, board.uuid)]
    handles = map(nvml.nvmlDeviceGetHandleByUUID, board.slices)
    names = [_text(nvml.nvmlDeviceGetName(handle)) for handle in handles]
    return [
        Gpu(name, f"{major}.{minor}", driver, board.uuid, uuid)
        for name, uuid in zip(names, board.slices, strict=True)
    ]


def _visible(nvml: Any) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES would call each GPU that CUDA may use, in CUDA's order."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(map(str, range(len(_boards(nvml))))) if variable is None else _entries(variable)


def open_board(gpu: Gpu) -> tuple[Any, Any]:
    """Return NVML, initialized for the life of the process, and its handle of the GPU with the sensors.

    Raises UsageError if that GPU is not known, ImportError or an NVML error if NVML does not work.
    """
    import pynvml

    if not gpu.board_uuid:
        raise UsageError(f"NVML knows no GPU by the UUID that torch gives for {gpu.name}")
    pynvml.nvmlInit()
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(gpu.board_uuid)


def open_device(gpu: Gpu) -> tuple[Any, Any]:
    """Return what `open_board` does, with the handle of the slice itself if the GPU is one."""
    nvml, board = open_board(gpu)
    if gpu.uuid == gpu.board_uuid or not gpu.uuid:
        return nvml, board
    return nvml, nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)


def gpu_limits(gpu: Gpu) -> BoardLimits:
    """Return power and clock limits and the ECC mode as NVML gives them."""
    with _nvml() as nvml:
        if isinstance(nvml, str) or not gpu.board_uuid:
            return BoardLimits()

        def ask(question: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return question(*arguments)
            except nvml.NVMLError:
                return None

        handle = ask(nvml.nvmlDeviceGetHandleByUUID, gpu.board_uuid)
        if handle is None:
            return BoardLimits()
        power_mw = ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        clocks = {
            kind: [
                ask(nvml.nvmlDeviceGetMaxClockInfo, handle, kind),
                ask(nvml.nvmlDeviceGetMaxCustomerBoostClock, handle, kind),
            ]
            for kind in (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM)
        }
        least = {
            kind: min((float(mhz) for mhz in found if mhz), default=None) for kind, found in clocks.items()
        }
        modes = ask(nvml.nvmlDeviceGetEccMode, handle)
        return BoardLimits(
            power_w=None if power_mw is None else power_mw / 1e3,
            sm_clock_mhz=least[nvml.NVML_CLOCK_SM],
            memory_clock_mhz=least[nvml.NVML_CLOCK_MEM],
            ecc="" if modes is None else ("on" if modes[0] else "off"),
        )


@dataclass(frozen=True)
class _Board:
    """A physical GPU as NVML lists it; `slices` are the UUIDs of its MIG devices."""

    handle: Any
    name: str
    uuid: str
    sliced: bool
    slices: tuple[str, ...]

    def has(self, uuid: str) -> bool:
        """Return whether a UUID, with or without its prefix, is this GPU's or a slice's."""
        return _digits(uuid) in map(_digits, (self.uuid, *self.slices))

    def named(self, uuid: str) -> str:
        """Return the UUID of the slice with these digits as NVML spells it, or the board's own."""
        return next((each for each in self.slices if _digits(each) == _digits(uuid)), self.uuid)


def _find(nvml: Any) -> Gpu | str:
    """Return CUDA's first GPU, or why there is none; its name is `""` if only torch can tell which it is."""
    if isinstance(nvml, str):
        return f"no NVIDIA driver answers here ({nvml})"
    try:
        boards = _boards(nvml)
        if not boards:
            return "the NVIDIA driver sees no GPU"
        if reason := why_no_cuda_build():
            return reason
        chosen = _first_visible(boards)
        if isinstance(chosen, str):
            return chosen
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        if chosen is None or chosen.sliced:
            return Gpu(name="", capability="", driver=driver, board_uuid="")
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(chosen.handle)
        return Gpu(chosen.name, f"{major}.{minor}", driver, chosen.uuid, chosen.uuid)
    except nvml.NVMLError as error:
        return f"the NVIDIA driver does not answer ({error})"


def _first_visible(boards: list[_Board]) -> _Board | str | None:
    """Return CUDA's first GPU, why there is none, or None if only torch can tell which it is."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if variable is None else next(iter(_entries(variable)), "")
    if first.startswith("MIG-"):
        return None
    if first.startswith("GPU-"):
        board = next((board for board in boards if board.uuid.startswith(first)), None)
    else:
        board = boards[int(first)] if first and int(first) < len(boards) else None
        # CUDA counts from the fastest GPU unless told otherwise, NVML by the bus.
        by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if board and not by_bus and len({board.name for board in boards}) > 1:
            return None
    return board or f"CUDA_VISIBLE_DEVICES={variable!r} hides every GPU"


def _entries(variable: str) -> list[str]:
    """Return the GPUs that the variable leaves, each an index, `GPU-…` or `MIG-…`.

    As CUDA reads it: the kind of the first entry is the kind of all, digits count up to the first other
    character, the first entry that is not valid ends the list, and a repeated one empties it.
    """
    first, *more = (entry.strip() for entry in variable.split(","))
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if first.startswith(prefix)), "")
    valid = re.compile(prefix + r"\S+" if prefix else r"\+?[0-9]+")
    entries: list[str] = []
    for entry in (first, *more):
        match = valid.match(entry)
        if match is None:
            break
        text = match[0] if prefix else str(int(match[0]))
        if text in entries:
            return []
        entries.append(text)
    return entries


def _torch_is_on_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _no_device(why: str) -> UsageError:
    return UsageError(f"no CUDA device: {why}; mend that, or choose the device cpu (--device cpu)")


def _told_by_torch(nvml: Any, gpu: Gpu) -> Gpu:
    """Fill in the name and capability of torch's device 0, and the board that has its UUID."""
    import torch

    if not torch.cuda.is_available():
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise _no_device(f"torch sees none (CUDA_VISIBLE_DEVICES is {variable!r})")
    properties = torch.cuda.get_device_properties(0)
    boards = _boards(nvml)
    uuid = str(getattr(properties, "uuid", ""))
    board = boards[0] if len(boards) == 1 else next((board for board in boards if board.has(uuid)), None)
    return replace(
        gpu,
        name=torch.cuda.get_device_name(0),
        capability=".".join(map(str, torch.cuda.get_device_capability(0))),
        board_uuid=board.uuid if board else gpu.board_uuid,
        uuid=board.named(uuid) if board else gpu.uuid,
    )


def _boards(nvml: Any) -> list[_Board]:
    boards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        sliced = _is_sliced(nvml, handle)
        boards.append(
            _Board(
                handle,
                _text(nvml.nvmlDeviceGetName(handle)),
                _text(nvml.nvmlDeviceGetUUID(handle)),
                sliced,
                tuple(_slices(nvml, handle)) if sliced else (),
            )
        )
    return boards


def _is_sliced(nvml: Any, handle: Any) -> bool:
    """Whether the GPU is in MIG mode, where CUDA sees a slice of it under its own name."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most GPUs know no MIG
        return False
    return bool(current)


def _slices(nvml: Any, handle: Any) -> Iterator[str]:
    """Yield the UUIDs of the MIG devices of a GPU; places without one answer with an error."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            yield _text(nvml.nvmlDeviceGetUUID(mig))
        except nvml.NVMLError:
            continue


@contextmanager
def _nvml() -> Iterator[Any]:
    """Yield the NVML module, initialized, or the reason why it cannot be used."""
    try:
        import pynvml
    except ImportError:
        yield "the package nvidia-ml-py is not installed"
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield f"NVML: {error}"
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _digits(uuid: str) -> str:
    """Return the UUID without `GPU-` or `MIG-`, which torch leaves out."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def _text(value: str | bytes) -> str:
    """Return text; NVML answers in str or, in old bindings, in bytes."""
    return value.decode() if isinstance(value, bytes) else value
