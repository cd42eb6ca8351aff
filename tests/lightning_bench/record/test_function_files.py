"""Functions of one name from several files: what a row knows of them, and how readers tell them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_bench.comparison.judge import compare_sides
from lightning_bench.comparison.sides import read_side
from lightning_bench.providers import get_provider
from lightning_bench.record import Record, ResultFile
from lightning_bench.record.function_files import function_label, function_of, of_several_files, told_apart
from lightning_bench.report.collect import collect
from tests.support.report_rows import STORY

SOURCE = "def attn(q, k, v):\n    return v\n"


def row(file: str, seq_len: int = 64, **changes: object) -> Record:
    label = function_label("attn", file) if file else "attn"
    own = {
        "provider": "attn",
        "label": label,
        "seq_len": seq_len,
        "case_id": f"attn/fwd/n{seq_len}",
        **changes,
    }
    return replace(STORY, median_ms=1.0, ci_low_ms=0.99, ci_high_ms=1.01, samples=20, machine_id="m", **own)  # type: ignore[arg-type]


def written(path: Path, *rows: Record) -> Path:
    with ResultFile(path) as file:
        for each in rows:
            file.append(each)
    return path


def test_a_function_has_the_path_of_its_file_in_its_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "kernels").mkdir()
    loose = tmp_path.parent / f"{tmp_path.name}-loose"
    loose.mkdir()
    for folder, label in ((tmp_path, "a.py"), (tmp_path / "kernels", "kernels/a.py"), (loose, "a.py")):
        (folder / "a.py").write_text(SOURCE)
        provider = get_provider(f"{folder}/a.py:attn@softmax")
        assert (provider.name, provider.label) == ("attn", f"attn ({label})")


def test_only_names_of_several_files_are_told_apart() -> None:
    rows = [row("a.py"), row("sub/b.py"), row("a.py", provider="own", label="own (a.py)"), row("")]
    assert [function_of(each) for each in rows] == [
        ("attn", "a.py"), ("attn", "sub/b.py"), ("own", "a.py"), ("attn", "")
    ]  # fmt: skip
    names = of_several_files(rows)
    assert names == {"attn"}
    found = [told_apart(each, names) for each in rows]
    assert [each.provider for each in found] == ["a.py:attn", "sub-b.py:attn", "own", "attn"]
    assert found[1].case_id == "sub-b.py:attn/fwd/n64"
    assert [told_apart(each, names) for each in found] == found, "once is enough"
    assert of_several_files(found) == names
    assert function_of(replace(STORY, label="FlashAttention (of flash.py)")) == ("a", "")


def test_a_report_has_a_column_for_each(tmp_path: Path) -> None:
    one = written(tmp_path / "one.csv", row("a.py", 64), row("a.py", 128, provider_version="1"))
    two = written(tmp_path / "two.csv", row("b.py", 64))
    assert {each.record.provider for each in collect([one]).rows} == {"attn"}
    both = collect([one, two])
    assert [each.record.provider for each in both.rows] == ["a.py:attn", "a.py:attn", "b.py:attn"]
    assert both.replaced == []


def test_a_comparison_has_a_cell_for_each(tmp_path: Path) -> None:
    both = written(tmp_path / "both.csv", row("a.py"), row("b.py", provider_version="2"))
    other = written(
        tmp_path / "other.csv", replace(row("b.py"), median_ms=1.5, ci_low_ms=1.49, ci_high_ms=1.51)
    )
    compared = compare_sides(read_side(both), read_side(other), threshold=0.03)
    verdicts = {cell.case_id: cell.verdict for cell in compared.cells}
    assert verdicts.keys() == {"a.py:attn/fwd/n64", "b.py:attn/fwd/n64"}
    assert verdicts["a.py:attn/fwd/n64"] == "MISSING"


def test_a_function_that_moved_to_another_file_is_compared_and_said_to_have_moved(tmp_path: Path) -> None:
    base, head = (written(tmp_path / f"{each}.csv", row(f"{each}.py")) for each in ("base", "head"))
    compared = compare_sides(read_side(base), read_side(head), threshold=0.03)
    assert [cell.case_id for cell in compared.cells] == ["attn/fwd/n64"]
    assert f"attn is a function of base.py in {base} and of head.py in {head}" in compared.remarks
    again = compare_sides(read_side(base), read_side(base), threshold=0.03)
    assert not any("is a function of" in each for each in again.remarks)
