"""The registry: what it lists, what it refuses, what it says about what is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lightning_bench.case import DTYPES, FAMILIES, Shape
from lightning_bench.errors import Unavailable, UsageError
from lightning_bench.providers import (
    BUILT_IN,
    Provider,
    canonical_spec,
    describe,
    get_provider,
    load_error,
    provider_names,
)
from lightning_bench.providers.registry import packages
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

ON_CPU = {"sdpa-flash", "sdpa-math", "sdpa-math-full"} | {x for x in BUILT_IN if x.endswith("-torch")}
ON_CPU |= {"vq-blockwise", "vq-sdpa", "srmsnorm-eager"}


def shape(head_dim: int = 64, value_dim: int = 64, **changes: object) -> Shape:
    values: dict[str, object] = {"batch": 1, "heads": 2, "seq_len": 128, "dtype": "bf16", "device": "cuda"}
    return Shape(head_dim=head_dim, value_dim=value_dim, **{**values, **changes})  # type: ignore[arg-type]


def install(site: Path, name: str, version: str = "1.0", *, requires: str = "", **files: str) -> Path:
    """Write a distribution on `site` as pip does: METADATA, and further files of its dist-info."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


def test_import_is_light() -> None:
    code = (
        "import sys, lightning_bench.providers as p; p.provider_names(); p.describe('cuda', deep=False);"
        "[p.get_provider(n).version() for n in p.provider_names()];"
        "print(*sorted({'torch', 'pandas', 'triton', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", BUILT_IN)
def test_table_matches_class(name: str) -> None:
    provider = get_provider(name)
    assert provider.name == name
    assert provider.label
    assert provider.summary
    assert provider.package
    assert provider.family in FAMILIES
    assert set(provider.dtypes) <= set(DTYPES)


def test_table_names_every_provider_class() -> None:
    listed = set(BUILT_IN.values())
    for module in {target.partition(":")[0] for target in listed}:
        found = vars(import_module(f"lightning_bench.providers.{module}"))
        for attribute, value in found.items():
            if isinstance(value, type) and issubclass(value, Provider) and "name" in vars(value):
                assert f"{module}:{attribute}" in listed


def test_labels_differ() -> None:
    labels = [get_provider(name).label for name in BUILT_IN]
    assert len(set(labels)) == len(labels)


def test_names_put_linear_families_first() -> None:
    families = [get_provider(name).family for name in BUILT_IN]
    assert families == sorted(families, key=FAMILIES.index)
    assert provider_names()[: len(BUILT_IN)] == list(BUILT_IN)


def test_unknown_name_suggests() -> None:
    with pytest.raises(
        UsageError, match=r"no provider is named 'lightnin2'\. Did you mean lightning2, .* or \S+\?"
    ) as info:
        get_provider("lightnin2")
    assert "sdpa-math" not in str(info.value)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("flashattention", "flash2, flash4, sdpa-flash or flash2-full"),
        ("Flash-Attention", "flash2, flash4, sdpa-flash or flash2-full"),
        ("flash_attn", "flash2, flash4, sdpa-flash or flash2-full"),
        ("FA", "flash2, flash4, sdpa-flash or flash2-full"),
        ("fa2", "flash2, flash2-full"),
        ("flash-attn-v2", "flash2, flash2-full"),
        ("fa3", "flash2 or flash4"),
        ("Flash_Attention-3", "flash2 or flash4"),
        ("fa4", "flash4"),
        ("sdpa", "sdpa-flash, sdpa-cudnn, sdpa-efficient or sdpa-math"),
        ("xformer", "xformers or xformers-auto"),
        ("cudnn", "sdpa-cudnn"),
        ("mamba", "fla-mamba2-chunk or mamba2-torch"),
        ("lightning", "lightning2, lightning2-torch, lightning1 or lightning-official"),
        ("Lightning-Attention-2", "lightning2, lightning2-torch"),
        ("pytorch", "sdpa-flash, sdpa-cudnn, sdpa-efficient or sdpa-math"),
        ("scaled_dot_product_attention", "sdpa-flash, sdpa-cudnn"),
        ("flash-linear-attention", "fla-chunk, fla-fused-chunk, fla-recurrent"),
        ("flash_linear_attention", "fla-chunk, fla-fused-chunk, fla-recurrent"),
        ("retnet", "lightning2-retention, fla-retention"),
    ],
)
def test_names_that_people_use_suggest_their_providers(given: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=rf"Did you mean {suggested}"):
        get_provider(given)


def test_a_kernel_that_no_provider_wraps_is_said_to_be_one() -> None:
    with pytest.raises(UsageError, match=r"'fa3' and none is of FlashAttention-3\. Did"):
        get_provider("fa3")


def test_a_family_in_place_of_a_provider_says_what_lists_its_providers() -> None:
    with pytest.raises(UsageError, match=r"It is a family: `lbench providers --family softmax` lists"):
        get_provider("softmax")


def test_unknown_name_without_likeness_says_what_lists_them() -> None:
    with pytest.raises(UsageError, match=r"'qqq'\. `lbench providers` lists all") as info:
        get_provider("qqq")
    assert "Did you mean" not in str(info.value)


def test_canonical_spec_keeps_names() -> None:
    assert canonical_spec("flash2") == "flash2"


def test_describe_on_cpu_says_why() -> None:
    infos = {info.name: info for info in describe("cpu", deep=False)}
    assert list(infos) == provider_names()
    for name in BUILT_IN:
        if name in ON_CPU:
            assert "CUDA" not in infos[name].reason
        else:
            assert infos[name].reason == "needs a CUDA device"
    assert infos["sdpa-math"].reason == ""
    assert infos["sdpa-math"].version
    assert infos["sdpa-math"].family == "softmax"


def test_describe_deep_loads_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    fla = import_module("lightning_bench.providers.fla")
    sdpa = import_module("lightning_bench.providers.sdpa")

    def load(self: Provider) -> None:
        raise OSError("/opt/site/lib/libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(fla.FlaChunk, "unavailable", lambda self, device: None)
    monkeypatch.setattr(fla.FlaChunk, "load", load)
    monkeypatch.setattr(sdpa.SdpaMath, "load", load)
    shallow = {info.name: info.reason for info in describe("cpu", deep=False)}
    deep = {info.name: info.reason for info in describe("cpu", deep=True)}
    assert shallow["fla-chunk"] == ""
    assert deep["fla-chunk"] == "libcudart.so.12: cannot open shared object file"
    assert deep["sdpa-math"] == ""  # torch itself is not imported to list it


def test_of_one_family_no_other_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fla = import_module("lightning_bench.providers.fla")
    flash2 = import_module("lightning_bench.providers.flash2")
    loaded = []
    for provider in (fla.FlaChunk, flash2.Flash2):
        monkeypatch.setattr(provider, "unavailable", lambda self, device: None)
        monkeypatch.setattr(provider, "load", lambda self: loaded.append(self.name))
    names = [info.name for info in describe("cpu", deep=True, family="softmax")]
    assert names == [name for name in BUILT_IN if get_provider(name).family == "softmax"]
    assert loaded == ["flash2"]


def test_installed_version_of_nothing() -> None:
    assert packages.installed_version("no-such-distribution-here") == ""


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "lightning-bench",
        "9.9",
        requires=(
            "Requires-Dist: absent_dist>=2.7; extra == 'absent'\n"
            "Requires-Dist: lightning-bench[absent]; extra == 'all'\n"
        ),
    )
    install(tmp_path, "present-dist", "3.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.missing_package("present-dist") is None
    wanted = 'absent-dist is not installed; pip install "lightning-bench[absent]"'
    assert packages.missing_package("absent-dist") == wanted
    assert (
        packages.missing_package("other-absent") == "other-absent is not installed; pip install other-absent"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ImportError("/a/b/flash_attn_2_cuda.so: undefined symbol: _ZN3c10"),
            "flash_attn_2_cuda.so: undefined",
        ),
        (ImportError("No module named 'fla'"), "No module named 'fla'"),
        (RuntimeError("two\n  lines"), "RuntimeError: two lines"),
        (Unavailable("needs a/b/c"), "needs a/b/c"),
        (OSError(), "OSError"),
    ],
)
def test_load_error_is_one_line(error: Exception, reason: str) -> None:
    assert load_error(error).startswith(reason)


def test_load_error_is_short() -> None:
    assert len(load_error(ImportError("x" * 5000))) == packages.REASON_LENGTH


@pytest.mark.parametrize(
    ("name", "at", "reason"),
    [
        ("lightning2", shape(8), "takes head_dim 16 to 256, not 8"),
        ("lightning2", shape(64, 512), "takes value_dim 16 to 256, not 512"),
        ("lightning2", shape(80, 192), None),
        ("lightning-official", shape(80), "powers of two"),
        ("lightning-official", shape(64, 96), "powers of two"),
        ("lightning-official", shape(16, 32), None),
        ("lightning-official", shape(192, 96), None),
        ("lightning-official", shape(200), "pieces of 64"),
        ("lightning-official", shape(128, 128, seq_len=131072, heads=129), "32-bit offsets"),
        ("lightning-official", shape(128, 128, seq_len=131072, heads=128), None),
        ("fla-chunk", shape(63), "odd"),
        ("fla-fused-chunk", shape(63), None),
        ("flash2", shape(64, 128), "value_dim = head_dim"),
        ("flash2", shape(264, 264), "up to 256"),
        ("flash2", shape(64, 64, dtype="fp32"), "takes fp16, bf16, not fp32"),
        ("flash4", shape(100), "steps of 8"),
        ("flash4", shape(192, 128), None),
        ("sdpa-flash", shape(64, 64, dtype="fp32"), "on cuda, not fp32"),
        ("sdpa-flash", shape(64, 64, dtype="fp32", device="cpu"), None),
        ("sdpa-flash", shape(64, 32, device="cpu"), "value_dim = head_dim"),
        ("sdpa-cudnn", shape(100), "steps of 8 in bf16"),
        ("sdpa-cudnn", shape(64, seq_len=1), "seq_len 1"),
        ("sdpa-efficient", shape(100, 100, dtype="fp32"), None),
        ("sdpa-efficient", shape(100), "steps of 8"),
        ("sdpa-math", shape(13, 17, dtype="fp32"), None),
        ("xformers", shape(100), "steps of 8"),
    ],
)
def test_unsupported(name: str, at: Shape, reason: str | None) -> None:
    said = get_provider(name).unsupported(at, "fwd_bwd")
    assert said is None if reason is None else reason in (said or "")


def test_fla_forward_takes_odd_dims() -> None:
    assert get_provider("fla-chunk").unsupported(shape(63), "fwd") is None


def test_official_says_how_it_splits() -> None:
    provider = get_provider("lightning-official")
    assert provider.config(shape(128), "fwd") == ""
    assert provider.config(shape(192), "fwd") == "calls=3"


def test_auto_dispatch_has_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if packages.installed_version("flash-attn"):
        pytest.skip("a real flash-attn is installed here")
    install(tmp_path, "xformers", "0.0.35")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_provider("xformers-auto").version() == "0.0.35"
    install(tmp_path, "flash-attn", "2.8.3")
    assert get_provider("xformers-auto").version() == "0.0.35+flash-attn-2.8.3"
    assert get_provider("xformers").version() == "0.0.35"
