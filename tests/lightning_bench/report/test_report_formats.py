"""The same small table in every format, and strings of a CSV that would break one."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.record import Record, Row
from lightning_bench.report.formats import latex as tex
from lightning_bench.report.formats import markdown as md
from lightning_bench.report.formats.export import HEADER, table_csv
from lightning_bench.report.tables.grid import Grid, grids
from lightning_bench.report.tables.groups import group
from lightning_bench.report.tables.kinds import chosen_kinds
from tests.support.report_rows import PAPER

BASE = replace(PAPER, device_name="NVIDIA H200", median_ms=0.1)
RECORDS = (
    BASE,
    replace(BASE, provider="flash2", family="softmax", median_ms=0.05, status="unstable", reason="wide"),
    replace(BASE, seq_len=1024, median_ms=0.2),
    replace(BASE, provider="flash2", family="softmax", seq_len=1024, status="oom", reason="40 % too much"),
)
NASTY = "a|b_c*d`e & 100 % {x} $y$ #1 ~ ^ \\ <script>alert(1)</script> [l](u) \"q\" 'r' -- λ 中"


def small(*records: Record, kind: str = "ms") -> list[Grid]:
    rows = [Row(record, "results/x.csv") for record in records or RECORDS]
    return grids(group(rows), chosen_kinds([kind]))


def test_markdown() -> None:
    assert md.markdown(small(), heading="Results", remarks=["4 rows."]) == (
        "# Results\n"
        "\n"
        "4 rows.\n"
        "\n"
        "## `lightning2-speed_fwd-batch4-head32-qk_dim128-v_dim128-dtype_bf16`: ms\n"
        "\n"
        "ms, median of cold samples.\n"
        "\n"
        "| n | `lightning2` | `flash2` |\n"
        "| ---: | ---: | ---: |\n"
        "| 512 | 0.1000 | 0.0500\\* |\n"
        "| 1024 | 0.2000 | OOM |\n"
        "\n"
        "- flash2: \\* unstable at n = 512: wide\n"
        "- flash2: oom at n = 1024: 40 % too much\n"
        "- NVIDIA H200; not by lightning-bench; protocol lbench\n"
        "- providers: lightning2 = linear\\_decay; flash2 = softmax\n"
        "- source: results/x.csv\n"
    )


def test_latex() -> None:
    text = tex.latex(small(), heading="Results", remarks=["4 rows."])
    assert text.startswith("\\documentclass{article}\n")
    assert text.endswith("\\end{document}\n")
    title = r"lightning2-speed\_fwd-batch4-head32-qk\_dim128-v\_dim128-dtype\_bf16"
    assert text.split("\\begin{document}\n", 1)[1] == (
        "\\section*{Results}\n\n4 rows.\n\n"
        "\\begin{table}[p]\n"
        "\\centering\n"
        f"\\caption{{\\texttt{{{title}}}: ms, median of cold samples.}}\n"
        "\\label{tab:lightning2-speed-fwd-batch4-head32-qk-dim128-v-dim128-dtype-bf16-ms-1}\n"
        "\\begin{tabular}{rrr}\n"
        "\\toprule\n"
        "$n$ & \\texttt{lightning2} & \\texttt{flash2} \\\\\n"
        " & linear decay & softmax \\\\\n"
        "\\midrule\n"
        "512 & 0.1000 & 0.0500* \\\\\n"
        "1024 & 0.2000 & OOM \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\par\\medskip\n"
        "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright\n"
        "flash2: * unstable at n = 512: wide\\par\n"
        "flash2: oom at n = 1024: 40 \\% too much\\par\n"
        "NVIDIA H200; not by lightning-bench; protocol lbench\\par\n"
        "providers: lightning2 = linear\\_decay; flash2 = softmax\\par\n"
        "source: results/x.csv\\par\n"
        "\\end{minipage}\n"
        "\\end{table}\n"
        "\\clearpage\n"
        "\n"
        "\\end{document}\n"
    )


def check_structure(text: str) -> None:
    """Check what pdflatex refuses: environments, braces, specials, characters, columns."""
    ends: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            ends.append(name)
        else:
            assert ends.pop() == name
    assert not ends
    bare = re.sub(r"\\textbackslash\{\}|\\[{}$&#%_]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    body = bare.split("\\begin{document}", 1)[1].replace("$n$", "n")
    assert not re.search(r"[$#^~]|(?<!\{!\}\{)%(?!\n)", body.replace("{!}{%\n", ""))
    assert re.fullmatch(r"[ -~\nÀ-ÿ]*", text)
    for spec, table in re.findall(r"\\begin\{tabular\}\{(r+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL):
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {line.count("&") + 1 for line in lines} == {len(spec)}
    labels = Counter(re.findall(r"\\label\{(.*?)\}", text))
    assert not [label for label, count in labels.items() if count > 1]


def test_latex_of_nasty_strings_keeps_its_structure() -> None:
    nasty = [
        replace(BASE, suite=NASTY, provider=NASTY, label=NASTY, device_name=NASTY),
        replace(BASE, suite=NASTY, seq_len=1024, status="crashed", reason=NASTY),
    ]
    check_structure(tex.latex(small(*nasty), heading=NASTY, remarks=[NASTY]))


@pytest.mark.slow
@settings(max_examples=40)
@given(st.text(max_size=60))
def test_latex_escapes_any_text(text: str) -> None:
    record = replace(BASE, provider=text or "a", suite=text, label=text, reason=text)
    check_structure(tex.latex(small(record, replace(record, seq_len=1024)), heading="x"))


def test_latex_prints_what_it_can_and_marks_what_it_cannot() -> None:
    assert tex.escape("a_b × λ é --x 中") == (r"a\_b \ensuremath{\times} \ensuremath{\lambda} é -{}-x ?")


def test_a_wide_table_is_scaled_to_the_line() -> None:
    wide = [replace(BASE, provider=f"p{index}") for index in range(9)]
    text = tex.latex(small(*wide), heading="x")
    assert "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}" in text
    assert "\\end{tabular}}\n" in text
    check_structure(text)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.text(max_size=60))
def test_markdown_tables_keep_their_columns_whatever_the_text(text: str) -> None:
    record = replace(BASE, provider=text or "a", suite=text, label=text, reason=text, device_name=text)
    document = md.markdown(small(record, replace(BASE, suite=text)), heading="x")
    table = [line for line in document.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == 3
    assert len(counts) == 1


def test_markdown_escapes() -> None:
    assert md.escape("<b>*a*</b> [l](u) x|y & _z_") == (
        "\\<b\\>\\*a\\*\\</b\\> \\[l\\](u) x\\|y &amp; \\_z\\_"
    )
    assert md.code("a`|b") == "`a'\\|b`"


def test_csv_has_one_line_per_cell() -> None:
    lines = list(csv.DictReader(io.StringIO(table_csv(small()))))
    assert [(line["seq_len"], line["provider"], line["value"], line["text"]) for line in lines] == [
        ("512", "lightning2", "0.1", "0.1000"),
        ("512", "flash2", "0.05", "0.0500*"),
        ("1024", "lightning2", "0.2", "0.2000"),
        ("1024", "flash2", "", "OOM"),
    ]
    assert tuple(lines[0]) == HEADER
    assert lines[3]["reason"] == "40 % too much"
    assert {line["source"] for line in lines} == {"results/x.csv"}


def test_a_table_without_columns_has_its_notes() -> None:
    gone = small(replace(BASE, status="unavailable", reason="no GPU", median_ms=None))
    assert "- lightning2: unavailable: no GPU\n" in md.markdown(gone, heading="x")
    text = tex.latex(gone, heading="x")
    assert "tabular" not in text
    check_structure(text)


@pytest.mark.parametrize("kind", ["speedup", "floor", "memory"])
def test_every_kind_has_sound_latex(kind: str) -> None:
    records = [
        replace(
            r, metric="memory" if kind == "memory" else "speed", extra_mib=4.0, ideal_mib=2.0, floor_ms=0.1
        )
        for r in RECORDS
    ]
    check_structure(tex.latex(small(*records, kind=kind), heading="x"))
