"""The suites that come with lightning-bench: each loads, and its header tells the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.suite import (
    Overrides,
    bundled_suites,
    default_suite,
    every_case,
    expand,
    find,
    find_suite,
    load_suite,
)

NAMES = [
    "context-parallel",
    "decode",
    "dims",
    "fla-readme",
    "generate",
    "layers",
    "long",
    "mixed",
    "models",
    "packed",
    "paper",
    "parallelism",
    "prefill",
    "quick",
    "short",
    "srmsnorm",
    "systems",
    "systems-quick",
    "table1",
    "verify",
]


def test_bundled_suites_are_these() -> None:
    assert bundled_suites() == NAMES, "suites/ is not NAMES of this file: add the new suite to it, in order"


@pytest.mark.parametrize("name", NAMES)
def test_header_states_the_number_of_cases(name: str) -> None:
    header = find_suite(name).read_text(encoding="utf-8")
    stated = re.search(r"^# Cases: (\d+)", header, re.MULTILINE)
    assert stated, f"{name}.toml does not state `# Cases: N`"
    suite = load_suite(name)
    cases = len(every_case(suite, suite.device or "cpu"))
    assert cases == int(stated[1]), f"{name}.toml has {cases} cases: correct `# Cases:` at its top"


@pytest.mark.parametrize("name", NAMES)
def test_header_says_what_it_takes_and_needs(name: str) -> None:
    header = find_suite(name).read_text(encoding="utf-8").split("\n\n")[0]
    assert header.startswith(f"# {name}: ")
    assert "# Takes: " in header
    assert "# Needs: " in header


@pytest.mark.parametrize("name", NAMES)
def test_bundled_suites_follow_the_default_protocol(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.protocol == "lbench"
    assert suite.limits.sample_limit_s < suite.limits.time_limit_s


def test_quick_has_few_small_cases_for_any_device() -> None:
    suite = load_suite("quick")
    assert suite.device is None
    cases = expand(suite, Overrides(), "cpu")
    assert {case.shape.device for case in cases} == {"cpu"}
    assert {case.direction for case in cases} == {"fwd", "bwd"}
    assert len(cases) * suite.limits.sample_limit_s <= 20


def test_paper_has_the_papers_shape() -> None:
    shapes = {case.shape for case in expand(load_suite("paper"), Overrides(), "cuda")}
    assert {(s.batch, s.heads, s.head_dim, s.value_dim, s.dtype) for s in shapes} == {
        (4, 32, 128, 128, "bf16")
    }
    assert sorted(s.seq_len for s in shapes) == [512, 1024, 2048, 4096, 8192, 16384, 32768]


def test_long_leaves_out_what_is_quadratic() -> None:
    longest: dict[str, int] = {}
    for case in expand(load_suite("long"), Overrides(), "cuda"):
        longest[case.provider] = max(case.shape.seq_len, longest.get(case.provider, 0))
    assert longest["lightning2"] == 1048576
    assert longest["lightning1"] == 65536
    assert longest["flash2"] == longest["sdpa-cudnn"] == 131072


def test_dims_has_no_fp32_for_flash() -> None:
    cases = expand(load_suite("dims"), Overrides(), "cuda")
    fp32 = {case.provider for case in cases if case.shape.dtype == "fp32"}
    assert fp32 == {"lightning2", "lightning-official", "fla-chunk", "fla-fused-chunk"}
    assert {case.provider for case in cases} - fp32 == {"flash2", "flash4", "sdpa-cudnn"}


def test_dims_and_parallelism_hold_the_cells_of_the_kernels_targets() -> None:
    shapes = {
        c.shape for name in ("dims", "parallelism") for c in expand(load_suite(name), Overrides(), "cuda")
    }
    assert {s.head_dim for s in shapes} == {64, 128, 256}
    assert {s.dtype for s in shapes} >= {"bf16", "fp16"}
    assert {s.batch * s.heads for s in shapes} == {8, 16, 32, 64, 128, 256}
    assert {s.seq_len for s in shapes} == {512 * 2**i for i in range(9)}


def test_parallelism_keeps_the_tokens_constant() -> None:
    shapes = {case.shape for case in expand(load_suite("parallelism"), Overrides(), "cuda")}
    assert {shape.batch * shape.seq_len for shape in shapes} == {131072}
    assert sorted(shape.batch * shape.heads for shape in shapes) == [8, 16, 32, 64, 128, 256]


def test_table1_trains_the_models_of_the_published_table() -> None:
    cases = expand(load_suite("table1"), Overrides(), "cuda", "train")
    lengths = [1024, 2048, 4096, 8192, 16384, 32768, 65536, 81920, 94208]
    found = {(c.shape.model_run.model, c.provider, c.shape.seq_len) for c in cases}
    pairs = [("tnl", "lightning2"), ("tnl", "lightning1"), ("llama", "sdpa-cudnn"), ("llama", "flash4")]
    assert found == {
        (f"{model}-{size}", provider, n)
        for model, provider in pairs
        for size in ("0.4b", "1b", "3b")
        for n in lengths
    }
    assert {c.shape.batch * c.shape.seq_len for c in cases} == {65536, 81920, 94208}
    assert {c.shape.model_run.recompute for c in cases if "3b" in c.shape.model_run.model} == {"layers"}


def test_default_suite() -> None:
    assert default_suite("cuda", "train") == "table1"
    assert default_suite("cpu", "train") == "quick"
    assert default_suite("cuda") == "paper"
    assert default_suite("cpu") == "quick"


def test_find_suite_suggests_only_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_suite("papper")
    assert "there is no suite `papper` (did you mean `paper`?)" in str(caught.value)
    assert "allowed: a name that `lbench suites` lists, or the path of a file" in str(caught.value)
    assert "srmsnorm" not in str(caught.value)


def test_find_suite_takes_a_path(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.touch()
    assert find_suite(own) == find_suite(str(own)) == own
    with pytest.raises(UsageError, match=r"none\.toml: there is no such file"):
        find_suite(tmp_path / "none.toml")


def test_find_suite_points_at_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").touch()
    with pytest.raises(UsageError, match=r"the file here is read as \./mine\.toml"):
        find_suite("mine")


def test_suites_of_a_wheel_lie_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "inside.toml").touch()
    monkeypatch.setattr(find, "_PACKAGE", tmp_path)
    assert bundled_suites() == ["inside"]
    assert find_suite("inside") == tmp_path / "suites" / "inside.toml"


@pytest.mark.slow
def test_loading_and_expanding_import_no_torch() -> None:
    program = (
        "import sys; from lightning_bench.suite import *\n"
        "for name in bundled_suites(): every_case(load_suite(name), 'cuda')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_provider_of_ones_own_lies_beside_its_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(
        "from lightning_bench.providers import Provider\n\n\n"
        "class Mine(Provider):\n"
        "    name, label, family, package = 'mine', 'Mine', 'softmax', 'torch'\n"
        "    def build(self, inputs):\n"
        "        raise NotImplementedError\n"
    )
    text = find_suite("quick").read_text(encoding="utf-8").replace('"sdpa-flash"', '"own.py:Mine"')
    exclude = 'exclude = [{ family = "softmax", direction = "bwd" }]\n'
    (tmp_path / "mine.toml").write_text(text.replace("[[group]]\n", "[[group]]\n" + exclude))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cases = expand(load_suite("../mine.toml"), Overrides(), "cpu")
    spec = f"{tmp_path.resolve()}/own.py:Mine"
    assert {case.direction for case in cases if case.provider == spec} == {"fwd"}
    typed = expand(load_suite("quick"), Overrides(providers=("../own.py:Mine",)), "cpu")
    assert {case.provider for case in typed} == {spec}


def test_an_unknown_provider_is_told_with_the_nearest(tmp_path: Path) -> None:
    text = find_suite("quick").read_text(encoding="utf-8").replace('"sdpa-flash"', '"sdpa-flsh"', 1)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_suite(tmp_path / "mine.toml")
    line = text[: text.index("\nproviders")].count("\n") + 2
    assert str(caught.value).startswith(f"{tmp_path}/mine.toml:{line}: group[0].providers: ")
    assert "sdpa-flsh" in str(caught.value)
    assert "Did you mean sdpa-flash" in str(caught.value)
    assert "\n" not in str(caught.value)
