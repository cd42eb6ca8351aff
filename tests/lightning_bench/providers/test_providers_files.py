"""Providers from a file: path/to/file.py:NAME."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.providers import canonical_spec, get_provider
from lightning_bench.providers.registry.packages import installed_version
from tests.support.patience import PATIENCE_S

GOOD = """\
import torch
from lightning_bench.providers import Inputs, Provider

class Mine(Provider):
    name, label, family, package = "mine", "My kernel", "softmax", "torch"
    devices = ("cpu",)
    def build(self, inputs: Inputs):
        return lambda: torch.zeros_like(inputs.v)

instance = Mine()
number = 3
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", ["Mine", "instance"])
def test_class_and_instance(good: Path, name: str) -> None:
    provider = get_provider(f"{good}:{name}")
    assert (provider.name, provider.label, provider.family, provider.layout) == (
        "mine",
        "My kernel",
        "softmax",
        "bhnd",
    )
    assert provider.unavailable("cpu") is None
    assert provider.unavailable("cuda") == "mine runs on cpu, not on cuda"


def test_file_runs_once(good: Path) -> None:
    assert type(get_provider(f"{good}:Mine")) is type(get_provider(f"{good}:instance"))


def test_version_changes_with_the_file(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(GOOD + "# edited\n")
    first, again, second = (get_provider(f"{path}:instance").version() for path in (good, good, other))
    assert first == again
    assert first != second
    assert first.startswith(installed_version("torch") + "+")


def test_bytecode_is_neither_read_nor_written(good: Path) -> None:
    cached = Path(cache_from_source(str(good)))
    cached.parent.mkdir()
    cached.write_bytes(b"torn, as on a full disk")
    assert get_provider(f"{good}:Mine").name == "mine"
    assert cached.read_bytes() == b"torn, as on a full disk"


def test_own_version_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(GOOD.replace("    devices", "    def version(self): return '7'\n    devices"))
    assert get_provider(f"{path}:Mine").version() == "7"


def test_canonical_spec_is_absolute(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good.parent)
    spec = canonical_spec("mine.py:Mine")
    assert spec == f"{good.resolve()}:Mine"
    assert canonical_spec(spec) == spec
    monkeypatch.chdir("/")
    assert get_provider(spec).name == "mine"


@pytest.mark.slow
def test_found_from_another_process(good: Path) -> None:
    import lightning_bench

    root = str(Path(lightning_bench.__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {root!r});"
        "from lightning_bench.providers import get_provider; print(get_provider(sys.argv[1]).name)"
    )
    spec = canonical_spec(f"{good}:Mine")
    done = subprocess.run(
        [sys.executable, "-c", code, spec],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.strip() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (":Other", "no Other; the file has Mine, instance; give path/to/file.py:NAME"),
        ("", "no name after it; the file has Mine, instance"),
        (":", "no name after it"),
        (":number", "number is of type int, and neither a subclass nor an instance of"),
        (":number", "nor an instance of lightning_bench.providers.Provider;"),  # as README imports it
        (
            ":Inputs",
            "Inputs is a class, and neither a subclass nor an instance of lightning_bench.providers.P",
        ),
        (
            ":Provider",
            "Provider declares no name, label, family, package; a provider has name, label, family, ",
        ),
    ],
)
def test_wrong_name(good: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError) as info:
        get_provider(f"{good}{name}")
    assert str(info.value).startswith(f"provider file {good}: ")
    assert said in str(info.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.py does not exist; give path/to/file\.py:NAME"):
        get_provider(f"{tmp_path}/none.py:Mine")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n\nraise ValueError('bad start')\n", "failed to import, line 3: ValueError: bad start"),
        ("import no_such_module_here\n", "failed to import, line 1: ModuleNotFoundError: No module named"),
        ("x = 1\ndef f(:\n", "failed to import, line 2: SyntaxError"),
        ("import sys\nsys.exit(4)\n", "failed to import, line 2: SystemExit: 4"),
        ("import json\n\njson.loads('{')\n", "failed to import, line 3: JSONDecodeError"),
        ("x = 1\n", "no Mine; the file has no Provider at all"),
        (GOOD.replace('"softmax"', '"fast"'), "family 'fast'; families are linear_decay, linear, softmax"),
        (
            GOOD.replace("    devices", "    layout = 'bdn'\n    devices"),
            "layout 'bdn'; layouts are bhnd, bnhd",
        ),
        (GOOD.replace("def build", "def built"), "Mine does not implement build()"),
        (
            GOOD.replace("    devices", "    def __init__(self, x): pass\n    devices").replace(
                "Mine()", "Mine(1)"
            ),
            "Mine cannot be made without arguments: ",
        ),
    ],
)
def test_bad_file(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(UsageError) as info:
        get_provider(f"{path}:Mine")
    assert said in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("folder", [".", "kernels"])
def test_module_in_a_folder_of_the_repository_is_found_and_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / folder / "helper_of_mine.py").touch()
    path = tmp_path / "kernels" / "bad.py"
    path.write_text("import helper_of_mine.part\n")
    there = (tmp_path / folder).resolve()
    with pytest.raises(UsageError, match=f"'helper_of_mine'; it is in {there}: set PYTHONPATH={there}$"):
        get_provider(f"{path}:Mine")
