"""A function of the Hugging Face kernels Hub as a provider, from a folder and from a Hub on this machine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from lightning_bench.case import Shape
from lightning_bench.errors import UsageError
from lightning_bench.measure.inputs import InputSet
from lightning_bench.providers import canonical_spec, declared_provider, get_provider
from lightning_bench.providers.registry import hub, packages, probe
from lightning_bench.providers.registry.checked import FailedImport
from lightning_bench.providers.registry.specs import is_code_spec, is_file_spec, with_family
from lightning_bench.record import read_records
from scripts.hub_build import lay_out
from tests.support.fake_hub import fake_hub
from tests.support.forked_workers import run_forked

pytestmark = pytest.mark.usefixtures("forked_workers")  # which declare

pytest.importorskip("kernels._rust", reason="the extra hub is not installed")

REPO = "some-org/some-kernel"
COMMIT = "0123456789abcdef" * 2 + "01234567"
SOURCE = """\
import torch

def attn(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

def decay(q, k, v, s=None):
    return v

class Layer(torch.nn.Module):
    pass
"""


def write_kernel(folder: Path, source: str = SOURCE, backends: tuple[str, ...] = ("cpu", "cuda")) -> Path:
    """Write a kernel repository, as kernel-builder lays out Python kernels."""
    for backend in backends:
        variant = folder / "build" / f"torch-{backend}"
        variant.mkdir(parents=True)
        (variant / "__init__.py").write_text(source)
        metadata = {
            "name": "some-kernel",
            "id": f"_some_kernel_{backend}_{abs(hash((str(folder), source)))}",
            "version": 1,
            "license": "mit",
            "python-depends": [],
            "backend": {"type": backend},
        }
        (variant / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_loaded", {})
    monkeypatch.setattr(probe, "_answers", {})
    for name in ("HF_HUB_OFFLINE", "LOCAL_KERNELS", hub.TRUST):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that takes the place of the repository."""
    folder = write_kernel(tmp_path / "kernel")
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPO}={folder}")
    return folder


def test_a_function_is_a_provider(local: Path) -> None:
    found = [look(f"hub:{REPO}@v1:attn@softmax@bnhd") for look in (get_provider, declared_provider)]
    for provider in found:
        assert (provider.name, provider.label) == ("some-kernel@v1:attn", "some-kernel@v1:attn")
        assert (provider.family, provider.layout, provider.devices) == ("softmax", "bnhd", ("cuda", "cpu"))
        assert re.fullmatch(r"local\+[0-9a-f]{8}", provider.version())
        assert provider.unavailable("cpu") is None
    assert found[0].version() == found[1].version()
    assert get_provider(f"hub:{REPO}@v1:decay@linear_decay").family == "linear_decay"


def test_the_call_computes_and_autograd_differentiates_it(local: Path) -> None:
    inputs = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), seed=1).inputs("bhnd")
    o = get_provider(f"hub:{REPO}@main:attn@softmax").build(inputs)()
    expected = torch.nn.functional.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=True)
    assert torch.equal(o, expected)
    grads = torch.autograd.grad(o.sum(), (inputs.q, inputs.k, inputs.v))
    assert [x.shape for x in grads] == [(1, 2, 8, 4)] * 3


def test_the_version_is_a_digest_of_the_files(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = get_provider(f"hub:{REPO}@v1:attn@softmax").version()
    assert get_provider(f"hub:{REPO}@v2:attn@softmax").version() == version
    other = write_kernel(tmp_path / "other", SOURCE + "# edited\n")
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPO}={other}")
    assert get_provider(f"hub:{REPO}@v3:attn@softmax").version() != version


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "hub:some-kernel@v1:attn",
            "names no repository of the Hub: 'some-kernel' is not ORG/NAME; give hub:",
        ),
        (
            f"hub:{REPO}:attn@softmax",
            f"names no revision of {REPO}, whose code may change; give hub:ORG/NAME@",
        ),
        (f"hub:{REPO}@v1", "no function after it; its functions are attn, decay; give hub:"),
        (
            f"hub:{REPO}@v1:",
            "no function after it; its functions are attn, decay; give hub:",
        ),
        (
            f"hub:{REPO}@v1:other",
            "no function other; its functions are attn, decay; give hub:",
        ),
        (f"hub:{REPO}@v1:Layer@softmax", "Layer is no function; its functions are attn, decay;"),
        (
            f"hub:{REPO}@v1:attn",
            "attn is a plain function, which does not say what it computes; give",
        ),
        (
            f"hub:{REPO}@v1:attn@soft",
            "attn has family 'soft', which is not known; did you mean softmax or softmax_full?",
        ),
        (
            f"hub:{REPO}@v1:attn@gla",
            "attn does not fit family gla, whose inputs are q, k, v, g: no",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(spec: str, said: str, local: Path) -> None:
    for look in (get_provider, declared_provider):
        with pytest.raises(UsageError, match=re.escape(said)):
            look(spec)


def test_a_kernel_that_does_not_import_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kernel(tmp_path / "kernel", "raise RuntimeError('no such card')\n")
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPO}={folder}")
    spec = f"hub:{REPO}@v1:attn@softmax"
    said = f"hub kernel {REPO}@v1: it does not load: RuntimeError: no such card"
    with pytest.raises(FailedImport, match=re.escape(said)):
        get_provider(spec)
    declared = declared_provider(spec)
    assert (declared.name, declared.version()) == ("some-kernel@v1:attn", "")
    with pytest.raises(UsageError, match=re.escape(said)):
        declared.unavailable("cpu")


def test_without_the_library_it_is_said_what_to_install(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda dist: "")
    with pytest.raises(UsageError, match=rf"hub kernel {REPO}@v1: kernels is not installed; pip install "):
        get_provider(f"hub:{REPO}@v1:attn@softmax")


def test_a_kernel_without_a_build_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kernel(tmp_path / "kernel", backends=("metal",))
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPO}={folder}")
    with pytest.raises(UsageError, match=r"some-kernel@v1: Cannot find a build variant .* torch-metal"):
        get_provider(f"hub:{REPO}@v1:attn@softmax")


def test_a_spec_of_the_hub_is_no_file() -> None:
    spec = f"hub:{REPO}@refs/pr/1:attn"
    assert is_code_spec(spec)
    assert not is_file_spec(spec)
    assert canonical_spec(spec) == spec
    assert with_family(spec, "softmax", "bnhd") == f"{spec}@softmax@bnhd"
    assert with_family(f"{spec}@gla", "softmax", "bnhd") == f"{spec}@gla"
    assert with_family(f"{spec}@gla", "gla", "bnhd") == f"{spec}@gla@bnhd"
    assert with_family(f"{spec}@gla@bhnd", "gla", "bnhd") == f"{spec}@gla@bhnd"
    assert with_family(spec, None) == spec


def test_rows_know_a_kernel_by_a_name_without_slashes() -> None:
    assert hub.HubKernel(REPO, "refs/pr/1").named("attn") == "some-kernel@refs-pr-1:attn"
    assert hub.HubKernel(REPO, COMMIT).named("attn") == "some-kernel@0123456789ab:attn"


@pytest.mark.slow
def test_from_the_hub_and_then_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kernel(tmp_path / "kernel")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    spec = f"hub:{REPO}@v1:attn@softmax"

    def fails(said: str, spec: str = spec) -> None:
        with pytest.raises(UsageError, match=re.escape(said)):
            declared_provider(spec)
        probe.forget_code()

    with fake_hub(REPO, folder, {"v1": COMMIT}) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        version = declared_provider(spec).version()
        assert re.fullmatch(rf"{COMMIT[:12]}\+[0-9a-f]{{8}}", version)
        assert declared_provider(spec.replace("@v1", f"@{COMMIT}")).version() == version
        fails(f"{REPO} has no revision v9; give hub:ORG/NAME@REVISION", spec.replace("@v1", "@v9"))
        fails("the Hub has no kernel repository some-org/other", spec.replace(REPO, "some-org/other"))
    fails(f"{endpoint} cannot be reached (")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert declared_provider(spec).version() == version
    fails("Cannot find a local snapshot for some-org/some-kernel (revision: v9)", spec.replace("@v1", "@v9"))


@pytest.mark.slow
def test_a_publisher_that_is_not_trusted_needs_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    spec = f"hub:{REPO}@v1:attn@softmax"
    with fake_hub(REPO, write_kernel(tmp_path / "kernel"), {"v1": COMMIT}, is_trusted=False) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(UsageError, match=rf"does not vouch for its publisher; .* set {hub.TRUST}={REPO}"):
            declared_provider(spec)
        probe.forget_code()
        monkeypatch.setenv(hub.TRUST, f"some-org/other, {REPO}")
        assert declared_provider(spec).version().startswith(COMMIT[:12])


@pytest.mark.slow
def test_the_command_line_checks_the_kernels_as_laid_out(tmp_path: Path) -> None:
    repo = "some-org/lightning-kernels"
    lay_out(tmp_path / "kernel", repo)
    spec = f"hub:{repo}@v0:lightning_attn2_torch"
    command = [
        "check",
        "quick",
        "--kernel",
        spec,
        "--family",
        "linear_decay",
        "--against",
        "lightning2-torch",
    ]
    command += ["--device", "cpu", "--seq-len", "64", "--out", str(tmp_path / "rows.csv")]
    local = {"LOCAL_KERNELS": f"{repo}={tmp_path / 'kernel'}"}
    done = run_forked(*command, folder=tmp_path, environment=os.environ | local)
    assert done.returncode == 0, done.stderr
    records = read_records(tmp_path / "rows.csv")
    assert {r.status for r in records} == {"ok"}
    versions = {r.provider: r.provider_version for r in records}
    assert versions.keys() == {"lightning-kernels@v0:lightning_attn2_torch", "lightning2-torch"}
    assert re.fullmatch(r"local\+[0-9a-f]{8}", versions["lightning-kernels@v0:lightning_attn2_torch"])
