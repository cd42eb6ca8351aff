"""The rules of the house: which way imports run, and how large, how named and how typed things are.

Imports are the contracts in pyproject.toml, which import-linter checks; the other rules are functions in
tests/support/house_rules.py. Each is tested on this repository and on a tree that breaks it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.support import house_rules
from tests.support.paths import ROOT

Rule = Callable[[Path], list[str]]

READERS = ("record", "comparison", "history", "report")

# Each rule with a small tree that breaks it, as path to source, and what the rule says of it.
BROKEN: list[tuple[Rule, dict[str, str], list[str]]] = [
    (
        house_rules.long_files,
        {"lightning_bench/a.py": "x = 1\n" * 401, "tests/b.py": "x = 1\n" * 400, "tests/c.js": "\n" * 500},
        ["lightning_bench/a.py has 401 lines", "tests/c.js has 500 lines"],
    ),
    (
        house_rules.shared_stems,
        {
            "lightning_bench/report/model.py": "",
            "kernels/lightning_kernels/model.py": "",
            "lightning_bench/report/__init__.py": "",
            "lightning_bench/run/__init__.py": "",
            "lightning_bench/cli/commands/report.py": "",
            "lightning_bench/run/report.py": "",
            "lightning_bench/utils.py": "",
        },
        [
            "model: kernels/lightning_kernels/model.py, lightning_bench/report/model.py",
            "utils: lightning_bench/utils.py",
        ],
    ),
    (
        house_rules.shared_types,
        {
            "lightning_bench/a.py": "class Verdict: ...\nclass _Own: ...\nKey = tuple[str, int]\nALL = X[1]",
            "lightning_bench/b.py": "Verdict = Literal['ok', 'wrong']\nclass _Own: ...\nALL = X[2]",
            "kernels/lightning_kernels/c.py": "class Key: ...",
        },
        [
            "Verdict: lightning_bench/a.py, lightning_bench/b.py",
            "Key: kernels/lightning_kernels/c.py, lightning_bench/a.py",
        ],
    ),
    (
        house_rules.long_signatures,
        {
            "lightning_bench/a.py": "def eight(a, b, c, d, e, f, g, *, h): ...\n"
            "class A:\n async def nine(self, a, b, c, d, /, e, f, g, *, h): ...",
            "lightning_bench/cli/commands/speed.py": "def speed(a, b, c, d, e, f, g, h, i, j, k, l): ...\n"
            "def other(a, b, c, d, e, f, g, h, i): ...",
            "lightning_bench/cli/commands/check.py": "def check(a, b, c, d, e, f, g, h, i, j, k, l, m): ...",
            "kernels/lightning_kernels/a.py": "@triton.jit\n"
            "def a_kernel(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p): ...\n"
            "@gluon.jit(noinline=True)\n"
            "def b_kernel(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p): ...\n"
            "@triton.jit\n"
            "def walk(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p): ...\n"
            "def c_kernel(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p): ...\n"
            "def fifteen(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o): ...",
        },
        [
            "lightning_bench/a.py: nine has 9 parameters, at most 8",
            "lightning_bench/cli/commands/check.py: check has 13 parameters, at most 12",
            "lightning_bench/cli/commands/speed.py: other has 9 parameters, at most 8",
            "kernels/lightning_kernels/a.py: walk has 16 parameters, at most 15",
            "kernels/lightning_kernels/a.py: c_kernel has 16 parameters, at most 15",
        ],
    ),
    (
        house_rules.readers_of_visible_devices,
        {
            "lightning_bench/machine/gpu.py": "os.environ.get('CUDA_VISIBLE_DEVICES')",
            "lightning_bench/run/a.py": "'''Leaves CUDA_VISIBLE_DEVICES alone.'''",
            "lightning_bench/run/b.py": "os.environ['CUDA_VISIBLE_DEVICES'] = ''",
        },
        ["lightning_bench/run/b.py"],
    ),
    (
        house_rules.untyped_figures,
        {
            "lightning_bench/measure/a.py": "class A:\n x: dict[str, Any] | None\n y: dict[str, int]\n"
            " def __init__(self, z: Mapping[str, Any]) -> None: ...\n"
            "def b() -> list[dict[str, Any]]: ...\n"
            "def _private(line: dict[str, Any]) -> None:\n figures: dict[str, Any] = {}\n",
            "lightning_bench/report/a.py": "def b() -> dict[str, Any]: ...",
        },
        [
            "lightning_bench/measure/a.py: A.x",
            "lightning_bench/measure/a.py: b()",
            "lightning_bench/measure/a.py: __init__(z)",
            "lightning_bench/measure/a.py: figures",
        ],
    ),
    (
        house_rules.private_torch_symbols,
        {
            "kernels/lightning_kernels/common/private_torch.py": "import torch\ntorch._C._has_storage(x)",
            "kernels/lightning_kernels/a.py": "import torch\nfrom torch.autograd import forward_ad as ad\n"
            "torch.__version__\nad._current_level\nself._private",
            "kernels/lightning_kernels/b.py": "from torch._dynamo import config\nconfig.verbose",
            "lightning_bench/c.py": "import torch._C as c\nfrom torch import _VF",
        },
        [
            "kernels/lightning_kernels/a.py: torch.autograd.forward_ad._current_level",
            "kernels/lightning_kernels/b.py: torch._dynamo.config",
            "kernels/lightning_kernels/b.py: torch._dynamo.config.verbose",
            "lightning_bench/c.py: torch._C",
            "lightning_bench/c.py: torch._VF",
        ],
    ),
    (
        house_rules.lists_of_worked_statuses,
        {
            "lightning_bench/record/row.py": "WORKED = frozenset({'ok', 'unstable'})",
            "lightning_bench/report/a.py": "record.status not in ('ok', 'unstable')",
            "lightning_bench/report/b.py": "record.status in ('ok', 'unstable', 'wrong')",
        },
        ["lightning_bench/report/a.py"],
    ),
    (
        house_rules.readers_of_csv,
        {
            "lightning_bench/record/a.py": "csv.reader(file)",
            "lightning_bench/report/a.py": "csv.writer(file)",
            "lightning_bench/history/b.py": "csv.DictReader(file)",
        },
        ["lightning_bench/history/b.py: csv.DictReader"],
    ),
    (
        house_rules.absolute_imports_of_kernels,
        {
            "kernels/lightning_kernels/a.py": "import lightning_kernels.b\nfrom .lightning_kernels import c\n"
            "def d():\n from lightning_kernels import e\n",
            "lightning_bench/a.py": "import lightning_kernels",
        },
        [
            "kernels/lightning_kernels/a.py: lightning_kernels.b",
            "kernels/lightning_kernels/a.py: lightning_kernels",
        ],
    ),
]
RULES = [rule for rule, _, _ in BROKEN]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(("rule", "tree", "offences"), BROKEN, ids=[rule.__name__ for rule in RULES])
def test_a_tree_that_breaks_the_rule_is_found(
    rule: Rule, tree: dict[str, str], offences: list[str], tmp_path: Path
) -> None:
    for name, source in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert sorted(rule(tmp_path)) == sorted(offences)


def test_imports_keep_their_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == EXIT_STATUS_SUCCESS, capsys.readouterr().out


# One line for each contract, planted in a module, and the contract that it breaks.
PLANTED = [
    ("lightning_bench/words.py", "lightning_bench.record.row", "Imports of the harness never run upwards"),
    ("lightning_bench/suite/load.py", "lightning_bench.comparison.rule", "know nothing of each other"),
    ("kernels/lightning_kernels/slopes.py", "lightning_kernels.layer", "Imports of the kernels never run"),
    ("kernels/lightning_kernels/layer.py", "lightning_bench.case", "The kernels know nothing of the harness"),
    ("lightning_bench/families/norm.py", "lightning_kernels", "Families define what is computed"),
    ("lightning_bench/history/series.py", "torch", "Result files are read without torch"),
    ("lightning_bench/report/collect.py", "lightning_bench.report.document", "in a circle"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy both packages and plant each import in a function."""
    root = tmp_path_factory.mktemp("planted")
    sources = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lightning_bench", root / "lightning_bench", ignore=sources)
    shutil.copytree(ROOT / "kernels/lightning_kernels", root / "kernels/lightning_kernels", ignore=sources)
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, module, _ in PLANTED:
        with (root / name).open("a") as file:
            file.write(f"\ndef planted() -> None:\n    import {module}\n")
    return root


@pytest.fixture(scope="module")
def complaints(planted: Path) -> str:
    """Return what import-linter prints of that copy, on one line."""
    call = "from importlinter.cli import lint_imports; print('code', lint_imports(no_cache=True))"
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = ['.', 'kernels']; {call}"]
    ran = subprocess.run(command, cwd=planted, capture_output=True, text=True, check=True)
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout).split())


@pytest.mark.parametrize(("name", "module", "contract"), PLANTED, ids=[name for name, _, _ in PLANTED])
def test_an_import_that_breaks_a_contract_is_found(
    complaints: str, name: str, module: str, contract: str
) -> None:
    assert complaints.endswith("code 1")
    assert re.search(rf"{re.escape(contract)}[\w ,]* BROKEN", complaints)


def test_no_modules_import_each_other_in_a_circle() -> None:
    packages = ("lightning_bench", "lightning_kernels")
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a circle
    imports["lightning_bench.case"].add("lightning_bench.cli.app")
    with pytest.raises(CycleError, match=r"lightning_bench\.case"):
        TopologicalSorter(imports).prepare()


def test_readers_of_results_import_no_torch() -> None:
    code = f"""
import pkgutil, sys
from importlib import import_module
for room in {READERS!r}:
    package = import_module(f"lightning_bench.{{room}}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        import_module(module.name)
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "triton", "lightning_kernels"}}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
