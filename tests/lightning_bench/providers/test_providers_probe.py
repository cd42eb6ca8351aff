"""Provider files are asked in a process of their own: nothing that they do at import ends the sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.providers import Provider, declared_provider, get_provider
from lightning_bench.providers.registry import probe
from lightning_bench.providers.registry.checked import BadProvider, as_provider
from lightning_bench.run.plan import PlannedProvider
from tests.support.paths import SUPPORT
from tests.support.workspace import until

ODD = f"{SUPPORT}/odd_providers.py"
GOOD = """\
from lightning_bench.providers import Provider
class Mine(Provider):
    name, label, family, package = "mine", "My kernel", "retention", "torch"
    devices, layout, tf32, packs = ("cpu",), "bnhd", True, True
    def build(self, inputs):
        return lambda: inputs.v
instance = Mine()
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """Write a provider file and return the spec of Mine in it."""

    def write(source: str) -> str:
        (tmp_path / "mine.py").write_text(source)
        return f"{tmp_path}/mine.py:Mine"

    return write


def test_declarations_are_those_of_the_file(file: Callable[[str], str]) -> None:
    spec = file(GOOD)
    declared, real = declared_provider(spec), get_provider(spec)
    for attribute in (
        "name",
        "label",
        "family",
        "layout",
        "package",
        "devices",
        "dtypes",
        "directions",
        "tf32",
        "packs",
        "grouped_heads",
    ):
        assert getattr(declared, attribute) == getattr(real, attribute)
    assert declared.version() == real.version()
    assert declared.unavailable("cpu") is None
    assert declared.unavailable("cuda") == real.unavailable("cuda")


def test_one_process_answers_for_all_providers_of_a_file(
    file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = file(GOOD)
    declared_provider(spec)
    monkeypatch.setattr("subprocess.Popen", None)
    assert declared_provider(spec.replace(":Mine", ":instance")).label == "My kernel"


def test_one_process_answers_for_all_functions_of_a_file_that_are_given_alike(
    file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = "".join(f"def {name}(q, k, v):\n    return v\n" for name in ("Mine", "other"))
    spec = file(f"{functions}def norm(x):\n    return x\n")
    declared_provider(f"{spec}@softmax")
    monkeypatch.setattr("subprocess.Popen", None)
    other = declared_provider(spec.replace(":Mine", ":other@softmax"))
    assert (other.name, other.family, other.unavailable("cpu")) == ("other", "softmax", None)
    with pytest.raises(UsageError, match="norm does not fit family softmax"):
        declared_provider(spec.replace(":Mine", ":norm@softmax"))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("while True: pass", "did not end within 1 s"),
        ("import os; os._exit(0)", "ended its process with exit code 0"),
        ("import sys; sys.exit('enough')", "failed to import, line 1: SystemExit: enough"),
        (
            "import os; print('all is lost', flush=True); os.abort()",
            "by signal 6; its last output: all is lost",
        ),
        ("import no_such_module", "failed to import, line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n1 / 0", "failed to import, line 2: ZeroDivisionError: division by zero"),
        ("def f(:", "failed to import, line 1: SyntaxError"),
        ("raise KeyboardInterrupt", "ended its process by signal 2; its last output: KeyboardInterrupt"),
    ],
)
def test_import_that_never_returns_is_a_reason(
    file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, start: str, reason: str
) -> None:
    if "while" in start:
        monkeypatch.setattr(probe, "LIMIT_S", 1.0)
    provider = declared_provider(file(f"{start}\n{GOOD}"))
    planned = PlannedProvider.of(provider, "cpu")
    assert provider.name == "Mine"
    assert planned.broken is not None
    assert reason in planned.broken
    assert planned.version.startswith("+")


def test_function_of_a_file_that_does_not_import_keeps_the_family_that_it_was_given(
    file: Callable[[str], str],
) -> None:
    spec = file("import no_such_module")
    for marks in ("@linear_decay", "@linear_decay@bnhd"):
        provider = declared_provider(spec + marks)
        assert (provider.name, provider.family) == ("Mine", "linear_decay")


def test_import_that_prints_prints_nothing_here(
    file: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert declared_provider(file("print('hello')\n" + GOOD)).name == "mine"
    assert capfd.readouterr() == ("", "")


def test_what_an_import_starts_ends_with_it(
    file: Callable[[str], str], tmp_path: Path, wait_gone: Callable[[int], None]
) -> None:
    noted = tmp_path / "pid"
    start = (
        f"import subprocess\nopen({str(noted)!r}, 'w').write(str(subprocess.Popen(['sleep', '999']).pid))\n"
    )
    declared_provider(file(start + GOOD))
    until(noted.exists, "no process was started")
    wait_gone(int(noted.read_text()))


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (GOOD, "Other", "no Other; the file has Mine, instance"),
        (GOOD, "number", "number is of type int"),
        (GOOD, "", "no name after it; the file has Mine, instance"),
        (f"import no_such_module\n{GOOD}", "", "ModuleNotFoundError: No module named 'no_such_module'; give"),
    ],
)
def test_file_without_such_a_provider_is_bad_usage(
    file: Callable[[str], str], source: str, name: str, said: str
) -> None:
    with pytest.raises(UsageError) as info:
        declared_provider(file(source).replace(":Mine", f":{name}" if name else ""))
    assert said in str(info.value)


BROKEN = {
    "VersionRaises": "version() raised KeyError: 'no version today'",
    "VersionIsANumber": "version() raised TypeError: version() returned 7, which is no text",
    "UnavailableRaises": "unavailable() raised no such library",
    "NameIsANumber": "NameIsANumber has name 7; it is one line of text",
    "DtypesAreAWord": "DtypesAreAWord has dtypes 'fp32'; it is a tuple out of fp32, fp16, bf16",
    "NeedsArguments": "NeedsArguments cannot be made without arguments",
}


@pytest.mark.parametrize("name", BROKEN)
def test_odd_provider_is_planned_with_a_reason(name: str) -> None:
    planned = PlannedProvider.of(declared_provider(f"{ODD}:{name}"), "cpu")
    assert planned.broken is not None
    assert BROKEN[name] in planned.broken


def test_plan_holds_what_any_provider_raises() -> None:
    class Raises(Provider):
        def version(self) -> str:
            raise ValueError("half installed")

    assert PlannedProvider.of(Raises(), "cpu").broken == "ValueError: half installed"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("label", ["Mine"]),
        ("label", "two\nlines"),
        ("package", 3),
        ("summary", None),
        ("family", "fast"),
        ("layout", ["bhnd"]),
        ("devices", ["cpu"]),
        ("dtypes", ("fp32", "fp8")),
        ("directions", ("sideways",)),
        ("directions", None),
    ],
)
def test_odd_declarations(attribute: str, value: Any) -> None:
    class Mine(Provider):
        name, label, family, package = "mine", "Mine", "softmax", "torch"

        def build(self, inputs: Any) -> Any:
            return None

    setattr(Mine, attribute, value)
    with pytest.raises(BadProvider, match=f"Mine has {attribute} "):
        as_provider(Mine, "Mine")
