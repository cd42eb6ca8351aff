"""Providers of other distributions, found by the entry points of dist-info folders really on the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_bench.errors import Unavailable, UsageError
from lightning_bench.providers import BUILT_IN, describe, get_provider, provider_names

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


def test_fault_in_a_method_is_a_reason(site: Path) -> None:
    source = MODULE.format(name="faulty", dist="faulty-dist") + "    def version(self): return 1 / 0\n"
    plugin(site, "faulty-dist", "faulty", "faulty_plugin:Kernel", source)
    assert reasons()["faulty"] == "ZeroDivisionError: division by zero"


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
