"""Providers of other distributions, found by the entry points of dist-info folders really on the path."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import Unavailable, UsageError
from lightning_bench.providers import (
    BUILT_IN,
    declared_provider,
    describe,
    get_provider,
    lookup,
    provider_names,
)
from lightning_bench.providers.registry import plugins, probe
from lightning_bench.run.plan import PlannedProvider

pytestmark = pytest.mark.usefixtures("forked_workers")  # which declare

MODULE = """\
from lightning_bench.providers import Provider

class Kernel(Provider):
    name, label, family, package = "{name}", "Theirs", "linear", "{dist}"
    devices = ("cpu",)
    def build(self, inputs):
        return lambda: inputs.v
"""


def plugin(site: Path, dist: str, name: str, target: str, source: str | None = None) -> None:
    """Install distribution ``dist`` with one entry point ``name = target`` and the module of ``target``."""
    folder = site / f"{dist.replace('-', '_')}-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
    (folder / "entry_points.txt").write_text(f"[lightning_bench.providers]\n{name} = {target}\n")
    if source is not None:
        (site / f"{target.partition(':')[0]}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lookup, "_declared", {})
    return tmp_path


def reasons() -> dict[str, str]:
    return {info.name: info.reason for info in describe("cpu", deep=False)}


def test_good(site: Path) -> None:
    source = MODULE.format(name="theirs", dist="good-dist")
    plugin(site, "good-dist", "theirs", "good_plugin:Kernel", source)
    assert provider_names() == [*BUILT_IN, "theirs"]
    assert get_provider("theirs").label == "Theirs"
    info = describe("cpu", deep=True)[-1]
    assert (info.name, info.family, info.version, info.package) == ("theirs", "linear", "1.2", "good-dist")
    assert info.reason == ""


def test_entry_points_are_read_again_only_once_a_folder_has_changed(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    entry_points = plugins.metadata.entry_points

    def counted(*, group: str) -> Any:
        read.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(plugins.metadata, "entry_points", counted)
    for _ in range(3):
        assert provider_names() == [*BUILT_IN]
    assert len(read) == 1
    plugin(site, "good-dist", "theirs", "good_plugin:Kernel")
    os.utime(site, (0, 0))  # clocks of file systems tick in milliseconds
    for _ in range(3):
        assert provider_names() == [*BUILT_IN, "theirs"]
    assert len(read) == 2


def test_a_library_is_loaded_only_for_a_deep_look(site: Path) -> None:
    source = MODULE.format(name="theirs", dist="good-dist") + "    def load(self): import no_such_library\n"
    plugin(site, "good-dist", "theirs", "good_plugin:Kernel", source)
    assert describe("cpu", deep=False)[-1].reason == ""
    assert describe("cpu", deep=True)[-1].reason == "No module named 'no_such_library'"


def test_a_library_is_not_loaded_to_list_another_family(site: Path) -> None:
    mark = site / "loaded"
    source = (
        MODULE.format(name="theirs", dist="good-dist") + f"    def load(self): open({str(mark)!r}, 'w')\n"
    )
    plugin(site, "good-dist", "theirs", "good_plugin:Kernel", source)
    assert [info.name for info in describe("cpu", True, "softmax_full")] == ["flash2-full", "sdpa-math-full"]
    assert not mark.exists()
    assert describe("cpu", True, "linear")[-1].name == "theirs"
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("absent_plugin", None, "No module named 'absent_plugin'"),
        ("raising_plugin", "raise RuntimeError('no licence')\n", "RuntimeError: no licence"),
        ("exiting_plugin", "raise SystemExit(3)\n", "SystemExit: 3"),
        ("empty_plugin", "", "AttributeError: module 'empty_plugin' has no attribute 'Kernel'"),
        ("number_plugin", "Kernel = 3\n", "number_plugin:Kernel is of type int"),
        (
            "renamed_plugin",
            MODULE.format(name="else", dist="bad-dist"),
            "is named else, its entry point theirs",
        ),
    ],
)
def test_broken(site: Path, module: str, source: str | None, said: str) -> None:
    plugin(site, "bad-dist", "theirs", f"{module}:Kernel", source)
    said_of_all = reasons()
    assert list(said_of_all) == [*BUILT_IN, "theirs"]
    assert said_of_all["theirs"].startswith("entry point theirs of bad-dist does not load: ")
    assert said in said_of_all["theirs"]
    assert said_of_all["sdpa-math"] == ""
    provider = get_provider("theirs")
    assert provider.name == "theirs"
    assert provider.unavailable("cpu") == said_of_all["theirs"]
    with pytest.raises(Unavailable, match="does not load"):
        provider.load()


@pytest.mark.parametrize(
    ("start", "broken", "said"),
    [
        ("while True: pass", True, "the import of entry point theirs of bad-dist did not end within 1 s"),
        ("import os; os._exit(0)", True, "ended its process with exit code 0"),
        ("import os; print('all is lost', flush=True); os.abort()", True, "last output: all is lost"),
        ("1 / 0", True, "does not load: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", True, "does not load: SystemExit: 3"),
        ("import no_such_library", False, "does not load: No module named 'no_such_library'"),
    ],
)
def test_an_import_harms_nobody_here(
    site: Path, monkeypatch: pytest.MonkeyPatch, start: str, broken: bool, said: str
) -> None:
    plugin(site, "bad-dist", "theirs", "bad_plugin:Kernel", start)
    if "while" in start:
        monkeypatch.setattr(probe, "LIMIT_S", 1.0)
    planned = PlannedProvider.of(declared_provider("theirs"), "cpu")
    assert planned.provider.name == "theirs"
    assert planned.version == "1.2"
    assert said in ((planned.broken if broken else planned.unavailable) or "")
    assert (planned.broken is None) != broken
    assert said in reasons()["theirs"]
    assert "bad_plugin" not in sys.modules


def test_what_an_import_prints_is_not_printed_here(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = "print('hello')\n" + MODULE.format(name="theirs", dist="good-dist")
    plugin(site, "good-dist", "theirs", "loud_plugin:Kernel", source)
    assert declared_provider("theirs").label == "Theirs"
    assert describe("cpu", deep=False)[-1].reason == ""
    assert capfd.readouterr() == ("", "")


def test_one_process_answers_for_all_cases(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(site, "good-dist", "once", "once_plugin:Kernel", MODULE.format(name="once", dist="good-dist"))
    declared_provider("once")
    monkeypatch.setattr(probe.subprocess, "Popen", None)
    assert declared_provider("once").package == "good-dist"


@pytest.mark.slow
def test_a_sweep_measures_the_others(site: Path, new_workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site))
    good = MODULE.format(name="loud", dist="loud-dist")
    plugin(site, "loud-dist", "loud", "loud_one:Kernel", "print('printed at import')\n" + good)
    plugin(site, "exits-dist", "exits", "exits_one:Kernel", "import os\nos._exit(0)\n")
    plugin(site, "absent-dist", "absent", "absent_one:Kernel", "import no_such_library\n")
    suite = new_workspace.suite(["loud", "exits", "absent", "Good"])
    ran = new_workspace.run("check", suite, "--json", "--out", new_workspace.out)
    assert ran.returncode == 1
    rows = {row["provider"]: row for row in json.loads(ran.stdout)[0]["records"]}
    assert "printed at import" not in ran.stderr
    ends = {name: row["status"] for name, row in rows.items()}
    assert ends == {"loud": "unsupported", "exits": "crashed", "absent": "unavailable", "good": "ok"}
    assert rows["exits"]["reason"] == (
        "the import of entry point exits of exits-dist ended its process with exit code 0"
    )
    listed = json.loads(new_workspace.run("providers", "--no-load", "--device", "cpu", "--json").stdout)
    here = {info["name"]: info["reason"] for info in listed}
    assert here["loud"] == ""
    assert here["exits"] == rows["exits"]["reason"]


def test_fault_in_a_method_is_a_reason(site: Path) -> None:
    source = MODULE.format(name="faulty", dist="faulty-dist") + "    def version(self): return 1 / 0\n"
    plugin(site, "faulty-dist", "faulty", "faulty_plugin:Kernel", source)
    assert reasons()["faulty"] == "version() raised ZeroDivisionError: division by zero"


def test_clash_with_built_in(site: Path) -> None:
    source = MODULE.format(name="flash2", dist="rival")
    plugin(site, "rival", "flash2", "rival_plugin:Kernel", source)
    said = "provider name flash2 is claimed by lightning-bench and rival (rival_plugin:Kernel)"
    with pytest.raises(UsageError) as info:
        get_provider("flash2")
    assert str(info.value).startswith(said)
    assert provider_names().count("flash2") == 1
    assert reasons()["flash2"].startswith(said)
    assert get_provider("flash4").name == "flash4"


def test_clash_of_two(site: Path) -> None:
    source = MODULE.format(name="same", dist="one-dist")
    plugin(site, "one-dist", "same", "one_plugin:Kernel", source)
    plugin(site, "two-dist", "same", "two_plugin:Kernel", source)
    with pytest.raises(UsageError, match=r"claimed by one-dist .* and two-dist "):
        get_provider("same")
    assert "claimed by one-dist" in reasons()["same"]
