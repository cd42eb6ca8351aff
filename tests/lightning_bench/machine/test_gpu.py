"""The GPU that CUDA calls 0, on machines played by a fake NVML: rows and clocks are of the same one."""

import importlib.util
import json
import os
import re
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine, detect_device
from lightning_bench.machine.gpu import cuda_gpu, usable_gpus, use_gpu, visible_gpus
from lightning_bench.machine.identity import identity
from lightning_bench.machine.place_lock import hold
from lightning_bench.measure.device.clocks import NoClocks, NvmlClocks, make_clocks
from lightning_bench.run.chosen_slots import choose_slots
from lightning_bench.run.slots import local_slots
from tests.support.fake_nvml import H200, RTX, Board, FakeNvml, NvmlError, fake_torch


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Play a machine with these GPUs, whose torch is a CUDA build unless told otherwise."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "restored at the end, whoever sets it")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(None))

    def play(*boards: str | Board, cuda: str = "'12.8'", visible: str | None = None, **kind: Any) -> FakeNvml:
        (tmp_path / "version.py").write_text(
            f"__version__ = '2.8'\ncuda: Optional[str] = {cuda}\nhip = None\n"
        )
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        listed = [
            Board(board, f"GPU-{index}aaa", 1000 + index) if isinstance(board, str) else board
            for index, board in enumerate(boards)
        ]
        fake = FakeNvml(listed, **kind)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return fake

    return play


@pytest.fixture
def torch_sees(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play what torch says of its first GPU."""

    def play(name: str | None, uuid: str = "", **state: bool) -> None:
        monkeypatch.setitem(sys.modules, "torch", fake_torch(name, uuid, **state))

    return play


class TestGpus:
    def test_a_gpu(self, gpus: Any) -> None:
        fake = gpus(H200, H200)
        assert detect_device() == "cuda"
        found = describe_machine("cuda")
        assert (found.device_name, found.capability, found.driver) == (H200, "9.0", "570.1")
        assert (found.cuda, found.slug) == ("12.8", "h200")
        assert fake.open == 0

    def test_the_cpu_beside_a_gpu(self, gpus: Any) -> None:
        gpus(H200)
        found = describe_machine("cpu")
        assert (found.slug, found.capability, found.driver) == ("cpu", "", "")
        assert found.device_name == found.cpu

    @pytest.mark.parametrize(
        ("visible", "name"), [("1", RTX), (" 1 ,0", RTX), ("0", H200), ("GPU-1", RTX), ("GPU-0aaa", H200)]
    )
    def test_the_visible_gpu_counts(
        self, gpus: Any, monkeypatch: pytest.MonkeyPatch, visible: str, name: str
    ) -> None:
        gpus(H200, RTX, visible=visible)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert detect_device() == "cuda"
        assert describe_machine("cuda").device_name == name

    @pytest.mark.parametrize(
        ("visible", "number", "left"),
        [(None, 1, "1"), ("1,0", 1, "0"), ("GPU-1aaa,GPU-0aaa", 0, "GPU-1aaa"), ("1", 0, "1")],
    )
    def test_one_of_several_is_chosen(self, gpus: Any, visible: str | None, number: int, left: str) -> None:
        gpus(H200, H200, visible=visible)
        use_gpu(number)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left
        assert visible_gpus() == 1
        assert describe_machine("cuda").gpu_uuid == identity(f"GPU-{left[-4:].removesuffix('aaa')[-1]}aaa")

    @pytest.mark.parametrize(("visible", "count"), [(None, 2), ("1", 1)])
    def test_a_gpu_that_is_not_here(self, gpus: Any, visible: str | None, count: int) -> None:
        gpus(H200, H200, visible=visible)
        with pytest.raises(
            UsageError, match=rf"cuda:{count} is not here; allowed: cuda:0 to cuda:{count - 1}"
        ):
            use_gpu(count)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible

    def test_no_gpu_to_choose_from(self, gpus: Any) -> None:
        gpus()
        with pytest.raises(UsageError, match="the NVIDIA driver sees no GPU"):
            use_gpu(0)
        assert visible_gpus() == 0

    @pytest.mark.parametrize("visible", ["", "-1", "2", "NoDevFiles", "GPU-9", "-1,0"])
    def test_all_hidden(self, gpus: Any, visible: str) -> None:
        gpus(H200, H200, visible=visible)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=f"CUDA_VISIBLE_DEVICES='{visible}' hides every GPU"):
            describe_machine("cuda")

    def test_torch_without_cuda(self, gpus: Any) -> None:
        gpus(H200, cuda="None")
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=r"torch .* is a build without CUDA"):
            describe_machine("cuda")

    def test_no_driver(self, gpus: Any) -> None:
        gpus(driver=False)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=r"no NVIDIA driver answers here \(NVML: Driver Not Loaded\)"):
            describe_machine("cuda")

    def test_no_nvml_package(self, gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus(H200)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        with pytest.raises(UsageError, match="nvidia-ml-py is not installed"):
            describe_machine("cuda")

    def test_no_gpu_and_a_gpu_that_fails(self, gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus()
        with pytest.raises(UsageError, match="sees no GPU"):
            describe_machine("cuda")

        def lost(index: int) -> int:
            raise NvmlError("GPU is lost")

        fake = gpus(H200)
        monkeypatch.setattr(fake, "nvmlDeviceGetHandleByIndex", lost)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match="GPU is lost"):
            describe_machine("cuda")
        assert fake.open == 0

    def test_unlike_gpus_and_slices_are_asked_of_torch(self, gpus: Any, torch_sees: Any) -> None:
        torch_sees(RTX)
        sliced = Board(H200, slices=("MIG-1",))
        for boards, played in (((H200, RTX), {}), ((sliced,), {}), ((sliced,), {"visible": "MIG-1"})):
            gpus(*boards, **played)
            assert detect_device() == "cuda"
            found = describe_machine("cuda")
            assert (found.device_name, found.capability, found.driver) == (RTX, "8.9", "570.1")

    def test_torch_sees_none(self, gpus: Any, torch_sees: Any) -> None:
        gpus(H200, visible="MIG-none")
        torch_sees(None)
        with pytest.raises(UsageError, match=r"torch sees none .*'MIG-none'"):
            describe_machine("cuda")


class TestSlots:
    """`--gpus`: GPUs by number or UUID, each with its own limits in its rows."""

    @pytest.mark.parametrize(
        ("visible", "wanted", "uuids"),
        [
            (None, "all", ["GPU-0aaa", "GPU-1aaa", "GPU-2aaa"]),
            (None, "2, 0", ["GPU-2aaa", "GPU-0aaa"]),
            (None, "GPU-1aaa", ["GPU-1aaa"]),
            (None, "gpu-1,0", ["GPU-1aaa", "GPU-0aaa"]),
            ("2,1", "all", ["GPU-2aaa", "GPU-1aaa"]),
            ("2,1", "0", ["GPU-2aaa"]),
            ("GPU-2", "all", ["GPU-2aaa"]),
        ],
    )
    def test_gpus_are_named(self, gpus: Any, visible: str | None, wanted: str, uuids: list[str]) -> None:
        gpus(*(Board(H200, f"GPU-{number}aaa", watts=700 - number) for number in range(3)), visible=visible)
        slots = local_slots(wanted)
        assert [slot.place.devices for slot in slots] == [(uuid,) for uuid in uuids]
        assert [slot.machine.gpu_uuid for slot in slots] == list(map(identity, uuids))
        assert [slot.machine.power_limit_w for slot in slots] == [700 - int(uuid[4]) for uuid in uuids]
        assert {slot.executor for slot in slots} == {f"local {len(uuids)}"}

    @pytest.mark.parametrize("visible", [None, "2,1"])
    def test_what_is_asked_of_the_gpu_is_asked_of_a_slot_until_all_are_given_back(
        self, gpus: Any, visible: str | None
    ) -> None:
        gpus(*(Board(H200, f"GPU-{number}aaa") for number in range(3)), visible=visible)
        before = usable_gpus()
        with closing(choose_slots("1")) as chosen:
            assert chosen.gpus == [before[1]]
            assert [cuda_gpu()] == usable_gpus() == [before[1]]
            assert chosen.machine is not None
            assert chosen.machine.gpu_uuid == identity("GPU-1aaa")
        assert usable_gpus() == before
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible

    def test_no_gpu_is_not_all_of_them(self, gpus: Any) -> None:
        gpus(H200, H200)
        with pytest.raises(UsageError, match="--gpus '' names no GPU; try --gpus all"):
            choose_slots("")

    def test_a_worker_enters_its_gpu(self, gpus: Any) -> None:
        gpus(H200, H200)
        for slot in local_slots("all"):
            slot.place.enter()
            assert cuda_gpu() == slot.place.gpu

    def test_slices_are_slots(self, gpus: Any) -> None:
        gpus(Board(H200, "GPU-0aaa", slices=("MIG-1", "MIG-2")), Board(H200, "GPU-1aaa"))
        slots = local_slots("0,1")
        assert [slot.place.devices for slot in slots] == [("MIG-1",), ("MIG-2",)]
        assert {slot.machine.mig for slot in slots} == {"1g.18gb"}
        assert {slot.machine.device_name for slot in slots} == {f"{H200} MIG 1g.18gb"}
        gpus(Board(H200, "GPU-0aaa", slices=("MIG-1", "MIG-2")), visible="MIG-2")
        assert [slot.place.devices for slot in local_slots("all")] == [("MIG-2",)]

    @pytest.mark.parametrize(
        ("wanted", "reason"),
        [
            ("3", "'3' is none of the GPUs here; allowed: all, 0 to 2, UUIDs"),
            ("GPU-9", "'GPU-9' is none of the GPUs"),
            ("GPU-", "'GPU-' is several of the GPUs"),
            ("0,GPU-0aaa", "names a GPU twice"),
            (",", "names no GPU"),
            ("0,2", f"GPU 0 is a {H200} and GPU 2 a {RTX}"),
            ("cpu:0", "allowed for a CPU: cpu:1 to cpu:"),
            ("cpu", "allowed for a CPU"),
        ],
    )
    def test_gpus_that_cannot_be_slots(self, gpus: Any, wanted: str, reason: str) -> None:
        gpus(H200, H200, RTX)
        with pytest.raises(UsageError, match=re.escape(reason)):
            local_slots(wanted)

    def test_unlike_gpus_in_an_order_that_only_cuda_knows(
        self, gpus: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpus(H200, RTX, visible="1,0")
        with pytest.raises(UsageError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID too"):
            local_slots("0")
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert [slot.machine.device_name for slot in local_slots("0")] == [RTX]

    def test_no_gpu_to_name(self, gpus: Any) -> None:
        gpus()
        with pytest.raises(UsageError, match="the NVIDIA driver sees no GPU"):
            local_slots("all")

    def test_processors_are_divided(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 9, 10})
        assert [slot.place.processors for slot in local_slots("cpu:2")] == [(4, 5), (6, 9, 10)]
        assert [slot.place.processors for slot in local_slots("cpu:6")] == [
            (4,),
            (4,),
            (5,),
            (6,),
            (9,),
            (10,),
        ]
        assert [slot.name for slot in local_slots("cpu:2")] == ["CPU 0", "CPU 1"]


class TestListed:
    """`lbench gpus`: what is here, and who uses it."""

    def test_who_uses_a_gpu(self, gpus: Any, lbench: Any) -> None:
        fake = gpus(H200, Board(H200, "GPU-1aaa", watts=500, ecc=False))
        fake.compute["GPU-1aaa"] = [77]
        with hold({"GPU-0aaa": "GPU 0"}):
            found = json.loads(lbench("gpus", "--json").out)
            text = lbench("gpus").out
        assert [(gpu["number"], gpu["uuid"], gpu["held_by"]) for gpu in found] == [
            (0, "GPU-0aaa", os.getpid()),
            (1, "GPU-1aaa", None),
        ]
        assert [gpu["gpu_uuid"] for gpu in found] == [identity("GPU-0aaa"), identity("GPU-1aaa")]
        assert f"lbench, pid {os.getpid()}" in text
        assert re.search(r"^1 .* GPU-1aaa  500  off  1 held a context", text, re.MULTILINE)

    def test_no_gpu(self, gpus: Any, lbench: Any) -> None:
        gpus(driver=False)
        ran = lbench("gpus")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("no GPU: no NVIDIA driver answers here")
        assert "--gpus cpu:N divides the" in ran.out
        assert json.loads(lbench("gpus", "--json").out) == []


A100 = "NVIDIA A100-SXM4-40GB"


class TestSensors:
    """Where two readers of the variable could disagree, the clocks are those of the row's GPU."""

    @pytest.fixture(autouse=True)
    def _machine(self, gpus: Any, torch_sees: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus, self.torch_sees, self.env = gpus, torch_sees, monkeypatch.setenv

    def clock(self) -> float:
        clocks = make_clocks("cuda")
        reading = clocks.read()
        assert reading is not None
        return reading.sm_clock_mhz

    @pytest.mark.parametrize(
        ("visible", "index"),
        [
            (None, 0),
            ("1", 1),
            (" 1 ,0", 1),
            ("+1", 1),
            ("1gpu", 1),  # digits count up to the first other character
            ("1,x,0", 1),  # the entry that is not valid ends the list
            ("GPU-1", 1),  # the beginning of a UUID is enough
            ("GPU-1aaa,GPU-0aaa", 1),
            ("GPU-1aaa,0", 1),
        ],
    )
    def test_the_gpu_of_the_variable(self, visible: str | None, index: int) -> None:
        self.gpus(H200, H200, visible=visible)
        assert cuda_gpu().board_uuid == f"GPU-{index}aaa"
        assert self.clock() == 1000 + index

    @pytest.mark.parametrize("visible", ["0,0", "GPU-0aaa,GPU-0aaa", "x,0", ",0", "GPU-", " "])
    def test_lists_that_leave_none(self, visible: str) -> None:
        self.gpus(H200, H200, visible=visible)
        with pytest.raises(UsageError, match="hides every GPU"):
            cuda_gpu()
        assert isinstance(make_clocks("cuda"), NoClocks)

    @pytest.mark.parametrize("visible", [None, "0"])
    def test_cuda_counts_from_the_fastest_of_unlike_gpus(self, visible: str | None) -> None:
        self.gpus(RTX, H200, visible=visible)
        self.torch_sees(H200, "1AAA")  # torch leaves out the prefix
        assert describe_machine("cuda").device_name == H200
        assert self.clock() == 1001
        self.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert describe_machine("cuda").device_name == RTX
        assert self.clock() == 1000

    def test_a_uuid_needs_no_order(self) -> None:
        self.gpus(RTX, H200, visible="GPU-1")
        assert describe_machine("cuda").device_name == H200
        assert self.clock() == 1001

    @pytest.mark.parametrize("visible", [None, "MIG-22", "MIG-22,MIG-11"])
    def test_a_slice_has_the_clocks_of_its_board(self, visible: str | None) -> None:
        boards = (
            Board(A100, "GPU-0aaa", 1000, slices=("MIG-11", "MIG-12")),
            Board(A100, "GPU-1aaa", 1001, slices=("MIG-21", "MIG-22")),
        )
        self.gpus(*boards, visible=visible)
        self.torch_sees(f"{A100} MIG 1g.5gb", "22")
        assert describe_machine("cuda").slug == "a100-sxm4-40gb-mig-1g-5gb"
        assert cuda_gpu().board_uuid == "GPU-1aaa"
        assert self.clock() == 1001

    def test_torch_may_give_a_slice_the_uuid_of_its_board(self) -> None:
        boards = (Board(A100, "GPU-0aaa", 1000, slices=("MIG-1",)), Board(A100, "GPU-1aaa", 1001))
        self.gpus(*boards)
        self.torch_sees(f"{A100} MIG 1g.5gb", "0aaa")
        assert self.clock() == 1000

    def test_a_sole_gpu_needs_no_uuid(self) -> None:
        self.gpus(Board(A100, slices=()), visible="MIG-GPU-0aaa/1/0")
        self.torch_sees(f"{A100} MIG 1g.5gb")
        assert self.clock() == 1000

    def test_no_readings_rather_than_those_of_another_gpu(self) -> None:
        self.gpus(RTX, H200)
        self.torch_sees(H200, "9aaa")
        assert describe_machine("cuda").device_name == H200
        assert cuda_gpu().board_uuid == ""
        assert isinstance(make_clocks("cuda"), NoClocks)

    def test_once_torch_runs_on_a_gpu_its_uuid_decides(self) -> None:
        self.gpus(H200, H200)
        self.torch_sees(H200, "1aaa", initialized=False)
        assert self.clock() == 1000
        self.torch_sees(H200, "1aaa", initialized=True)
        assert self.clock() == 1001
        self.torch_sees(H200, "", initialized=True)  # a torch without UUIDs
        assert self.clock() == 1000

    def test_a_gpu_without_sensors_is_measured_without_readings(self) -> None:
        self.gpus(Board("GRID", sensors=False))
        assert describe_machine("cuda").device_name == "GRID"
        assert isinstance(NvmlClocks(cuda_gpu()), NvmlClocks)
        assert isinstance(make_clocks("cuda"), NoClocks)
