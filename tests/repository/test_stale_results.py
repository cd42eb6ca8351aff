"""The script that says which committed rows are not of this repository, and its step in CI."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.committed_files import CommittedFile
from benchmarks.stale_files import machine_of, versions
from lightning_bench.case import Direction
from lightning_bench.families.work import Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.models.model_sizes import MODELS as MODEL_SIZES
from lightning_bench.record import Record, ResultFile, read_records
from scripts import stale_results as stale_results_script
from scripts.stale_results import bundled_providers, floor_fault, main, repository_version, stale_results
from tests.support.paths import ROOT

CEILINGS = Ceilings(4200.0, 750.0, 0)


def test_a_file_that_cannot_be_read_is_no_stale_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "nowhere.csv")])
    assert caught.value.code == 2
    assert "nowhere.csv: there is no such file or folder" in capsys.readouterr().err


def row(provider: str = "lightning2", family: str = "linear_decay", direction: Direction = "fwd") -> Record:
    """Return a row as a sweep of today writes it."""
    record = Record(
        suite="s",
        metric="speed",
        protocol="lbench",
        status="ok",
        case_id=f"{provider}/{direction}/x",
        provider=provider,
        family=family,
        provider_version=repository_version() if provider in bundled_providers() else "2.0",
        direction=direction,
        dtype="bf16",
        batch=4,
        heads=32,
        seq_len=2048,
        head_dim=128,
        value_dim=128,
        device="cuda",
        median_ms=0.3,
        ceiling_gbps=CEILINGS.gbps,
        ceiling_tflops=CEILINGS.tflops,
    )
    work = Work.of(family, record.shape, direction)
    return replace(
        record,
        model_bytes=work.min_bytes,
        model_flops=work.min_flops,
        floor_ms=work.floor_ms(CEILINGS),
        ceiling_of=str(work.mix),
    )


def write(path: Path, *records: Record) -> Path:
    with ResultFile(path) as file:
        for record in records:
            file.append(record)
    return path


def test_rows_of_today_are_not_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(direction=direction) for direction in ("fwd", "bwd", "fwd_bwd")]
    path = write(tmp_path / "a.csv", *rows, row("sdpa-flash", "softmax"), row("fla-gla-chunk", "gla"))
    assert main([str(path)]) == 0
    assert "every row is of the repository's kernels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"provider_version": "0.1.0+aaaaaaaa"}, "kernels 0.1.0+aaaaaaaa; those of the repository are "),
        ({"model_flops": None}, "floor of bytes alone, an older definition"),
        ({"model_bytes": 1.0}, "model_bytes of another definition"),
        ({"model_flops": 1.0}, "model_flops of another definition"),
        ({"floor_ms": 0.1}, "floor_ms of another definition"),
        ({"ceiling_tflops": None}, "no ceilings to compute the floor from"),
        ({"ceiling_of": ""}, "floor at the bandwidth of a copy, an older definition"),
        ({"ceiling_of": "2:1"}, "floor at the bandwidth of another mix of reads and writes"),
    ],
)
def test_what_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], reason: str
) -> None:
    changed = replace(row(), **change)  # type: ignore[arg-type]
    path = write(tmp_path / "a.csv", row(), row("sdpa-flash", "softmax"), changed)
    (found,) = stale_results([path])
    assert found.reason.startswith(reason)
    assert (found.rows, found.total, found.providers) == (1, 3, ("lightning2",))
    assert main([str(tmp_path), "--github"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith(f"a.csv: 1 of 3 rows: {found.reason} (lightning2)\n")
    assert printed.err.startswith("::warning file=")
    assert printed.err.endswith(f"::1 of 3 rows: {found.reason} (lightning2)\n")


def test_what_has_no_floor_and_no_kernels_of_ours() -> None:
    assert floor_fault(replace(row(), metric="memory", model_bytes=None)) is None
    assert floor_fault(replace(row(), median_ms=None, model_bytes=None)) is None
    assert floor_fault(replace(row(), family="unheard")) == "family unheard is not defined any more"
    assert floor_fault(replace(row(), ceiling_of="copy")) is None
    assert floor_fault(replace(row(), device="cpu", ceiling_of="")) is None


def test_csvs_of_benchmarks_are_looked_at(tmp_path: Path) -> None:
    with (tmp_path / "calls.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["provider", "provider_version", "ms"])
        writer.writerows([["lightning2", "0.1.0+old", 1], ["lightning2", repository_version(), 1]])
        writer.writerow(["sdpa-flash", "2.0", 1])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (found,) = stale_results([tmp_path])
    assert (found.rows, found.total) == (1, 3)


def test_in_ci_it_warns_and_does_not_fail() -> None:
    import yaml

    steps = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["steps"]
    (step,) = [step for step in steps if "stale_results" in step.get("run", "")]
    assert step["continue-on-error"] is True
    assert step["run"] == ".venv/bin/python scripts/stale_results.py --github"


@pytest.mark.parametrize(
    ("model", "median_ms", "commit", "stale"),
    [
        ("llama-0.4b", 1.0, "abc", True),
        ("llama-0.4b", None, "abc", False),  # no time, so nothing that the code has changed
        ("llama-0.4b", 1.0, "unknown", False),
        ("tnl-0.4b", 1.0, "abc", False),
        ("", 1.0, "abc", False),
    ],
)
def test_rows_of_models_that_ran_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, median_ms: float, commit: str, stale: bool
) -> None:
    known = {("llama", "abc"): False, ("transnormer", "abc"): True}
    monkeypatch.setattr(stale_results_script, "same_model", lambda *at: known.get(at))
    of_model = replace(row("flash2", "softmax"), model=model, median_ms=median_ms, harness_commit=commit)
    found = stale_results([write(tmp_path / "a.csv", of_model)])
    assert [each.reason for each in found] == ["a model that ran other code than the repository's"] * stale


def test_rows_of_models_of_another_size(tmp_path: Path) -> None:
    size = MODEL_SIZES["llama-0.4b"]
    plain = replace(row("flash2", "softmax"), model=size.name, batch=1, heads=size.heads, new_tokens=64)
    shape = plain.shape
    trained = replace(plain, metric="train", model_flops=size.step_flops(shape))
    generated = replace(plain, metric="generate", model_bytes=size.decoding_bytes(shape))
    assert stale_results([write(tmp_path / "a.csv", trained, generated)]) == []
    wider = replace(size, glu_width=size.glu_width + 128)
    trained = replace(trained, model_flops=wider.step_flops(shape))
    generated = replace(generated, model_bytes=wider.decoding_bytes(shape))
    (found,) = stale_results([write(tmp_path / "b.csv", trained, generated)])
    assert (found.rows, found.reason) == (2, "a model of another size, or figures of another definition")


@pytest.mark.parametrize("name", ["llama-0.4b", "tnl-0.4b"])
def test_rows_of_models_with_other_heads(tmp_path: Path, name: str) -> None:
    """Twice as many heads of half the size: LLaMA needs as many FLOPs and bytes."""
    size = MODEL_SIZES[name]
    other = replace(size, heads=2 * size.heads)
    plain = replace(row("flash2", size.family), model=name, heads=other.heads, head_dim=other.head_dim)
    shape = plain.shape
    trained = replace(plain, metric="train", model_flops=other.step_flops(shape))
    generated = replace(plain, metric="generate", model_bytes=other.decoding_bytes(shape))
    (found,) = stale_results([write(tmp_path / "a.csv", trained, generated)])
    assert (found.rows, found.reason) == (2, "a model of another size, or figures of another definition")


def test_a_sweep_does_not_go_on_from_rows_of_models_that_ran_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would be stale for ever: a sweep measures no case that has a row."""
    file = CommittedFile("made-up/rows.csv", ("lbench train quick --model llama-tiny",), gpus=0)
    (provider, version), *_ = versions(file).items()
    here = {"machine_id": machine_of(file).id, "provider_version": version, "model": "llama-tiny"}
    now = replace(row(provider, "softmax"), harness_commit="now", **here)
    older = replace(now, case_id="older", harness_commit="older")
    monkeypatch.setattr(stale_results_script, "same_model", lambda _, commit: commit == "now")
    run_all._go_on(file, write(tmp_path / "a.csv", now, older), tmp_path / "b.csv")
    assert [each.case_id for each in read_records(tmp_path / "b.csv")] == [now.case_id]


@pytest.mark.parametrize(
    ("provider", "metric", "functions"),
    [
        ("lightning2", "train", ("lightning_attn2",)),
        ("lightning2", "generate", ("lightning_attn2", "lightning_attn2_step")),
        (
            "lightning2-verify-torch",
            "speed",
            ("lightning_attn2_verify_torch", "lightning_attn2_commit_torch"),
        ),
    ],
)
def test_rows_are_stale_once_any_function_that_they_ran_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, metric: str, functions: tuple[str, ...]
) -> None:
    older = replace(row(provider), metric=metric, provider_version="0.1.0+aaaaaaaa", median_ms=None)
    for number, changed in enumerate(("", *functions)):
        monkeypatch.setattr(stale_results_script, "same_sources", lambda name, _, it=changed: name != it)
        found = stale_results([write(tmp_path / f"{number}.csv", older)])
        assert [each.providers for each in found] == [(provider,)] * bool(changed)
    monkeypatch.setattr(stale_results_script, "same_sources", lambda name, _: name in functions)
    assert stale_results([write(tmp_path / "others.csv", older)]) == []


def test_rows_whose_sources_are_as_they_were_are_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stale_results_script,
        "same_sources",
        lambda function, commit: (function, commit) == ("lightning_attn1", "abc"),
    )
    older = {"provider_version": "0.1.0+aaaaaaaa", "harness_commit": "abc"}
    path = write(tmp_path / "a.csv", *(replace(row(name), **older) for name in ("lightning1", "lightning2")))
    (found,) = stale_results([path])
    assert (found.rows, found.providers) == (1, ("lightning2",))
