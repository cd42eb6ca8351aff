"""The kernels as laid out for the Hugging Face Hub, loaded by its `kernels` library: two builds at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.hub_build import PACKAGE, lay_out, main
from scripts.stale_results import repository_version
from tests.support.kernel_cases import lk, make_inputs, relative_l2, run
from tests.support.patience import PATIENCE_S

# kernel-builder's own parsers; without the library, `kernels` alone would be the folder of this repository
parsers = pytest.importorskip("kernels._rust", reason="the extra hub is not installed")
import kernels  # noqa: E402

REPO = "some-org/lightning-kernels"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two repositories of the same sources with namespaces of their own."""
    folder = tmp_path_factory.mktemp("hub")
    found = [folder / "first", folder / "second"]
    for out in found:
        lay_out(out, REPO, out.name)
    return found


@pytest.fixture(scope="module")
def modules(builds: list[Path]) -> list[ModuleType]:
    return [kernels.get_local_kernel(out) for out in builds]


def test_the_layout_is_that_of_kernel_builder(builds: list[Path]) -> None:
    out = builds[0]
    assert {path.name for path in out.iterdir()} == {"build", "build.toml", "LICENSE", "README.md"}
    backends = {
        str(backend).lower() for backend in parsers.Build.open(out).general.backends
    }  # refuses unknown keys
    assert backends == {"cpu", "cuda"}
    variants = {backend: out / "build" / f"torch-{backend}" for backend in backends}
    assert set((out / "build").iterdir()) == set(variants.values())
    sources = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}
    for backend, variant in variants.items():
        files = {path.relative_to(variant) for path in variant.rglob("*")}
        assert files == sources | {Path("metadata.json")}
        changed = [
            str(path)
            for path in sources
            if (PACKAGE / path).is_file() and (PACKAGE / path).read_bytes() != (variant / path).read_bytes()
        ]
        assert changed == ["_ops.py"]
        metadata = kernels.Metadata.read_from_file(variant / "metadata.json")
        assert metadata.id == f"_lightning_kernels_{backend}_first"
        assert metadata.name.python_name == PACKAGE.name
        assert (metadata.version, metadata.license, metadata.python_depends) == (0, "mit", [])
        assert metadata.upstream == "https://github.com/lightning-bench/lightning-bench"
        assert str(metadata.backend.backend_type).lower() == backend


def test_the_digests_are_those_that_the_hub_checks(builds: list[Path]) -> None:
    variant, other = (out / "build" / "torch-cpu" for out in builds)
    expected = kernels.Metadata.read_from_file(variant / "metadata.json").digest
    expected.validate(parsers.Digest.hash_variant(parsers.DigestAlgorithm.SHA256, variant))
    with pytest.raises(parsers.DigestValidationError, match=r"mismatch for _ops\.py"):
        expected.validate(parsers.Digest.hash_variant(parsers.DigestAlgorithm.SHA256, other))


def test_a_build_has_the_digest_of_the_rows_of_its_sources(tmp_path: Path) -> None:
    main([str(tmp_path / "out"), "--repo-id", REPO])
    metadata = kernels.Metadata.read_from_file(tmp_path / "out/build/torch-cpu/metadata.json")
    digest = repository_version().partition("+")[2]
    assert metadata.id == f"_lightning_kernels_cpu_{digest}"
    card = (tmp_path / "out/README.md").read_text()
    assert f"torch.ops._lightning_kernels_cuda_{digest}`" in card


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["OUT", "--repo-id", "kernels"], "give ORG/NAME"),
        (["OUT", "--repo-id", REPO, "--unique-id", "a-b"], "lower-case letters"),
        ([".", "--repo-id", REPO], "exists; give a folder that does not"),
    ],
)
def test_what_cannot_be_laid_out_is_said(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=words):
        main(arguments)
    assert list(tmp_path.iterdir()) == []


class _Operators(TorchDispatchMode):
    """Records the operators of the kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "lightning_kernels" in func.namespace:
            self.names.add(func.name())
        return func(*args, **kwargs or {})


def attend(module: ModuleType) -> tuple[torch.Tensor, ...]:
    """Return o, dq, dk, dv of `lightning_attn2` by the kernels."""
    inputs = make_inputs(1, 2, 70, 16, 16, torch.float32, device=DEVICE)
    return run(module.lightning_attn2, *inputs, torch.tensor([0.1, 0.5], device=DEVICE))


def normalize(module: ModuleType) -> tuple[torch.Tensor, ...]:
    """Return y and dx of `simple_rms_norm` by the kernels."""
    x, _, _, dy = make_inputs(1, 1, 8, 32, 32, torch.float32, device=DEVICE)
    y = module.simple_rms_norm(x)
    return y.detach(), *torch.autograd.grad(y, x, dy)


def decode(module: ModuleType) -> tuple[torch.Tensor, ...]:
    """Return o and the state after `lightning_attn2_step` by the kernels."""
    q, k, v = (x[:, :, 0].detach() for x in make_inputs(1, 2, 1, 16, 16, torch.float32, device=DEVICE)[:3])
    s, state = torch.tensor([0.1, 0.5], device=DEVICE), torch.ones(1, 2, 16, 16, device=DEVICE)
    return module.lightning_attn2_step(q, k, v, s, state=state), state


@pytest.mark.parametrize(
    ("compute", "operators"),
    [
        (attend, {"linear_attention", "linear_attention_backward"}),
        (normalize, {"simple_rms_norm", "simple_rms_norm_backward"}),
        (decode, {"linear_attention_step"}),
    ],
)
def test_builds_and_the_package_compute_side_by_side(
    compute: Callable[[ModuleType], tuple[torch.Tensor, ...]], operators: set[str], modules: list[ModuleType]
) -> None:
    backend = "cuda" if torch.version.cuda else "cpu"
    namespaces = [f"_lightning_kernels_{backend}_{name}" for name in ("first", "second")]
    expected = compute(lk)
    for module, namespace in zip([*modules, lk], [*namespaces, "lightning_kernels"], strict=True):
        with _Operators() as seen:
            found = compute(module)
        assert seen.names == {f"{namespace}::{operator}" for operator in operators}
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_builds_share_no_code(modules: list[ModuleType]) -> None:
    everything = [*modules, lk]
    for module in everything:
        attend(module)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
    files = {sys.modules[f"{module.__name__}.lightning2.portable"].__file__ for module in everything}
    assert len(files) == len(everything)


def test_a_build_computes_what_the_oracle_does(modules: list[ModuleType]) -> None:
    q, k, v, do = make_inputs(1, 2, 70, 16, 16, torch.float64, device=DEVICE)
    s = torch.tensor([0.1, 0.5], device=DEVICE, dtype=torch.float64)
    expected = run(lk.reference_attention, q, k, v, do, s)
    assert all(relative_l2(a, b) < 1e-5 for a, b in zip(attend(modules[0]), expected, strict=True))


def test_operators_of_a_build_have_fakes(modules: list[ModuleType]) -> None:
    with FakeTensorMode():
        x = torch.empty(4, 32, device=DEVICE)
        q = torch.empty(1, 2, 70, 16, device=DEVICE)
        assert modules[0].simple_rms_norm(x).shape == x.shape
        assert modules[1].lightning_attn2(q, q, q, None).shape == q.shape


@pytest.mark.slow
def test_the_card_has_an_example_that_runs(builds: list[Path], tmp_path: Path) -> None:
    card = (builds[0] / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {"library_name": "kernels", "license": "mit"}
    assert [name for name in lk.__all__ if f"- `{name}`\n" not in card] == []
    assert "{" not in card.replace("{'", "")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    environment = {**os.environ, "LOCAL_KERNELS": f"{REPO}={builds[0]}"}
    if DEVICE == "cpu":
        code = code.replace('"cuda"', '"cpu"').replace("bfloat16", "float32").replace("4096", "64")
        environment["TRITON_INTERPRET"] = "1"
    code += "assert all(x.grad.isfinite().all() for x in (q, k, v))\n"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=PATIENCE_S
    )
