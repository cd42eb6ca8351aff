"""NVML of a machine with several GPUs, unlike ones and MIG slices included, played by a module object.

Sensors of a board answer with its own figures, so that a reading tells which board it came from. Those of
a MIG slice answer with an error, as NVML's do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

H200, RTX = "NVIDIA H200", "NVIDIA GeForce RTX 4090"


class NvmlError(Exception):
    """NVML's only kind of error; `value` is its number."""

    def __init__(self, text: str, value: int = 999) -> None:
        super().__init__(text)
        self.value = value


@dataclass(frozen=True)
class Board:
    """A GPU; `slices` are the UUIDs of its MIG devices, None where it is not in MIG mode."""

    name: str = H200
    uuid: str = "GPU-0aaa"
    mhz: int = 1000
    slices: tuple[str, ...] | None = None
    sensors: bool = True
    watts: int = 700
    ecc: bool | None = True


@dataclass(frozen=True)
class Slice:
    """A handle of a MIG device."""

    uuid: str
    board: Board = field(repr=False)


class FakeNvml(ModuleType):
    """The part of pynvml that the harness calls; a handle is a Board or a Slice."""

    NVMLError = NvmlError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_SUCCESS, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND = 0, 3, 6

    def __init__(self, boards: list[Board], *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.boards, self.driver, self.open = boards, driver, 0
        self.compute: dict[str, list[int]] = {}
        self.graphics: dict[str, list[int]] = {}
        self.use: list[tuple[int, int, int]] | None = []
        """Samples of use: process id, microseconds, share of the SMs; None where NVML does not count it."""

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:  # noqa: N802
        return self.boards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board | Slice:  # noqa: N802
        slices = [Slice(each, board) for board in self.boards for each in board.slices or ()]
        for handle in (*self.boards, *slices):
            if handle.uuid == uuid:
                return handle
        raise NvmlError("Not Found")

    def nvmlDeviceGetName(self, handle: Board | Slice) -> bytes:  # noqa: N802
        name = f"{handle.board.name} MIG 1g.18gb" if isinstance(handle, Slice) else handle.name
        return name.encode()  # as old bindings do

    def nvmlDeviceGetUUID(self, handle: Board | Slice) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetCudaComputeCapability(self, handle: Board) -> tuple[int, int]:  # noqa: N802
        return (9, 0) if "H" in handle.name else (8, 9)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetMigMode(self, handle: Board) -> tuple[int, int]:  # noqa: N802
        if handle.slices is None:
            raise NvmlError("Not Supported")
        return 1, 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Board) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Board, index: int) -> Slice:  # noqa: N802
        if handle.slices is None or index >= len(handle.slices):
            raise NvmlError("Not Found")
        return Slice(handle.slices[index], handle)

    def nvmlDeviceGetClockInfo(self, handle: Board | Slice, kind: int) -> int:  # noqa: N802
        return self._sensors(handle).mhz

    def nvmlDeviceGetPowerUsage(self, handle: Board | Slice) -> int:  # noqa: N802
        return 1000 * self._sensors(handle).mhz

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Board | Slice) -> int:  # noqa: N802
        return 5000 * self._sensors(handle).mhz

    def nvmlDeviceGetTemperature(self, handle: Board | Slice, kind: int) -> int:  # noqa: N802
        return self._sensors(handle).mhz // 100

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Board | Slice) -> int:  # noqa: N802
        self._sensors(handle)
        return 0

    def nvmlDeviceGetMaxClockInfo(self, handle: Board, kind: int) -> int:  # noqa: N802
        return handle.mhz * kind

    def nvmlDeviceGetMaxCustomerBoostClock(self, handle: Board, kind: int) -> int:  # noqa: N802
        if kind == self.NVML_CLOCK_MEM:
            raise NvmlError("Not Supported", self.NVML_ERROR_NOT_SUPPORTED)
        return handle.mhz - 10

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Board) -> int:  # noqa: N802
        return 1000 * handle.watts

    def nvmlDeviceGetEccMode(self, handle: Board) -> list[int]:  # noqa: N802
        if handle.ecc is None:
            raise NvmlError("Not Supported", self.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle.ecc), 0]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Board | Slice) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self.compute.get(handle.uuid, [])]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Board | Slice) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in self.graphics.get(handle.uuid, [])]

    def nvmlDeviceGetProcessUtilization(self, handle: Board | Slice, since_us: int) -> list[Any]:  # noqa: N802
        if self.use is None:
            raise NvmlError("Not Supported", self.NVML_ERROR_NOT_SUPPORTED)
        found = [
            SimpleNamespace(pid=pid, timeStamp=at, smUtil=share, memUtil=0)
            for pid, at, share in self.use
            if at > since_us
        ]
        if not found:
            raise NvmlError("Not Found", self.NVML_ERROR_NOT_FOUND)
        return found

    @staticmethod
    def _sensors(handle: Board | Slice) -> Board:
        if isinstance(handle, Slice) or not handle.sensors:
            raise NvmlError("Not Supported")
        return handle


def fake_torch(name: str | None, uuid: str = "", *, initialized: bool = False) -> Any:
    """Return what torch says of its first GPU; None for a torch that sees none."""
    cuda = SimpleNamespace(
        is_available=lambda: name is not None,
        is_initialized=lambda: initialized,
        get_device_name=lambda index: name,
        get_device_capability=lambda index: (8, 9),
        get_device_properties=lambda index: SimpleNamespace(uuid=uuid),
    )
    return SimpleNamespace(cuda=cuda)
