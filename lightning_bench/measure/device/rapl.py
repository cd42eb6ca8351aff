"""Energy of the processors' packages, by the RAPL counters that Linux shows below /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class RaplEnergy:
    """The sum of all packages; it counts whoever uses them. Raise OSError if none can be read.

    A counter starts again at its range: between two readings it may do so once, which takes minutes.
    """

    missing = ""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._packages = sorted(each for each in folder.glob("intel-rapl:*") if each.name.count(":") == 1)
        if not self._packages:
            raise OSError(f"no package below {folder}")
        self._ranges = [_microjoules(each / "max_energy_range_uj") for each in self._packages]
        self._last = self._read()
        self._sum = 0

    def read_j(self) -> float:
        """Return the joules since this counter was made."""
        now = self._read()
        for before, after, most in zip(self._last, now, self._ranges, strict=True):
            self._sum += after - before if after >= before else after - before + most
        self._last = now
        return self._sum / 1e6

    def _read(self) -> list[int]:
        return [_microjoules(package / "energy_uj") for package in self._packages]


def _microjoules(path: Path) -> int:
    return int(path.read_text())
