"""Reports of training: tables of each model, table 1 of the paper beside it, plots and the page."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lightning_bench.errors import UsageError
from lightning_bench.record import Record, ResultFile
from lightning_bench.report.document import FORMATS, Report, make_comparison, make_report
from lightning_bench.report.page.plot_choices import plot_choices
from lightning_bench.report.page.views import views_of
from lightning_bench.report.plots.plot_files import drawings_of
from lightning_bench.report.plots.training_plots import training_plot
from lightning_bench.report.tables.grid import Grid, grids
from lightning_bench.report.tables.groups import group
from tests.support.report_rows import PAPER, rows_of
from tests.support.trained_rows import trained


def written(folder: Path, records: list[Record]) -> Path:
    path = folder / "table1-train.csv"
    with ResultFile(path) as file:
        for record in records:
            file.append(record)
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_comparison([written(tmp_path_factory.mktemp("trained"), trained())])


@pytest.fixture(scope="module")
def table(comparison: Report) -> Grid:
    (grid,) = comparison.grids
    return grid


def line(grid: Grid, *labels: str) -> list[str]:
    """Return the texts of the first line below the one of a size and model that has these labels."""
    params, model, attention, which = labels
    seen = ("", "")
    for texts, cells in zip(grid.texts, grid.cells, strict=True):
        seen = (texts[0] or seen[0], texts[1] or seen[1])
        if seen == (params, model) and texts[2] == attention and texts[3].startswith(which):
            return [cell.text for cell in cells]
    raise AssertionError(f"there is no {labels}")


def test_table_1_has_the_published_figures_in_the_published_shape(table: Grid) -> None:
    assert table.heads == ["params", "model", "attention", "tokens/s"]
    assert [column.provider for column in table.columns] == [
        str(n) for n in (1024, 2048, 4096, 8192, 16384, 32768, 65536, 81920, 94208)
    ]
    published = [texts[:3] for texts in table.texts if texts[3] == "published"]
    assert [texts[0] for texts in published] == ["0.4B"] * 3 + ["1B"] * 3 + ["3B"] * 3
    assert [texts[1:] for texts in published[:3]] == [
        ["LLaMA", "FlashAttention-2"],
        ["TransNormerLLM", "Lightning Attention-1"],
        ["TransNormerLLM", "Lightning Attention-2"],
    ]
    shown = line(table, "0.4B", "LLaMA", "FlashAttention-2", "published")
    assert shown == ["35931", "32453", "28184", "21996", "15479", "9715", "5643", "4604", "4078"]
    shown = line(table, "3B", "TransNormerLLM", "Lightning Attention-2", "published")
    assert shown == ["7524", "7593", "7599", "7559", "7545", "7545", "OOM", "OOM", "OOM"]


def test_each_measured_attention_is_below_the_published_line_of_its_model(table: Grid) -> None:
    assert line(table, "0.4B", "TransNormerLLM", "Lightning Attention-2 (ours)", "here") == ["176007"] * 9
    which = [texts[3] for texts in table.texts]
    assert which == [
        *["published", "here", "ratio"] * 6,
        *["published", "here, layers recomputed", "ratio"] * 3,
    ]
    assert line(table, "3B", "LLaMA", "SDPA (cuDNN)", "here")[-3:-1] == ["5139", "OOM"]
    assert any(note.startswith("flash4: unavailable: flash-attn-4") for note in table.notes)
    assert any("2 x A100-80G" in note and "devices and frameworks" in note for note in table.notes)


def test_lines_say_in_what_they_differ(tmp_path: Path) -> None:
    rows = [record for record in trained() if (record.model, record.provider) == ("tnl-0.4b", "lightning2")]
    how = {"step_tokens": 32768, "compile": "", "dtype": "fp32"}
    others = [replace(row, **how, case_id=f"{row.case_id}-other") for row in rows]  # type: ignore[arg-type]
    (table,) = make_comparison([written(tmp_path, [*rows, *others])]).grids
    here = [texts[3] for texts in table.texts if texts[3].startswith("here")]
    assert here == [
        "here, bf16, 65536 tokens per step, compiled",
        "here, fp32, 32768 tokens per step, not compiled",
    ]


def test_ratios_are_here_over_published(table: Grid) -> None:
    names = [texts[3] for texts in table.texts]
    for at, name in enumerate(names):
        if name == "ratio":
            for ratio, here, published in zip(*table.cells[at : at - 3 : -1], strict=True):
                if ratio.value is None:
                    assert None in (here.value, published.value)
                else:
                    assert here.value is not None
                    assert published.value is not None
                    assert ratio.value == pytest.approx(here.value / published.value, rel=1e-3)


def test_markdown_and_latex_have_the_table_on_its_side(comparison: Report) -> None:
    markdown = FORMATS["md"](comparison)
    assert "| params | model | attention | tokens/s | `1024` | `2048` |" in markdown
    assert "| 0.4B | LLaMA | FlashAttention-2 | published | 35931 | 32453 |" in markdown
    latex = FORMATS["tex"](comparison)
    assert r"params & model & attention & tokens/s & \texttt{1024}" in latex
    assert "0.4B & LLaMA & FlashAttention-2 & published & 35931 & 32453 &" in latex
    assert r"\begin{tabular}{" + "r" * 13 + "}" in latex
    assert r"\texttt{94208} \\" + "\n" + r"\midrule" in latex, "no line of blanks below the heads"


def test_csv_and_page_have_one_line_per_length(comparison: Report) -> None:
    frame = pd.read_csv(io.StringIO(FORMATS["csv"](comparison)))
    chosen = frame[(frame["provider"] == "tnl-la2") & (frame["column"] == "published, 1B")]
    assert chosen["value"].tolist()[:2] == pytest.approx([20052, 19967])
    assert chosen["seq_len"].tolist()[:2] == [1024, 2048]
    (view,), _ = views_of(comparison.page_grids())
    assert view.title == "Training: table 1 of arXiv 2401.04658"
    assert (view.axes, len(view.lines), len(view.columns)) == (["seq_len"], 9, 27)
    assert "176007" in FORMATS["html"](comparison)


def test_rows_without_a_published_model_are_an_error(tmp_path: Path) -> None:
    rows = [replace(record, model="tnl-tiny") for record in trained()[:1]]
    with pytest.raises(UsageError, match="train if these rows have a model of the published table"):
        make_comparison([written(tmp_path, rows)], metrics=["train"])


def test_attention_beside_training_keeps_both_tables(tmp_path: Path) -> None:
    report = make_comparison([written(tmp_path, [*trained()[:9], replace(PAPER, median_ms=1.0)])])
    assert report.grids[-1].title == "table1-train: table 1 of arXiv 2401.04658"
    assert len(report.grids) > 1
    assert "no kernel can be held against" not in " ".join(report.remarks)


def test_a_model_has_a_table_of_each_kind_whatever_its_batches() -> None:
    tables = grids(group(rows_of(trained())))
    of_small = [grid for grid in tables if "tnl-0.4b" in grid.title]
    assert [grid.kind for grid in of_small] == ["tgs", "mfu", "peak", "phases", "train_energy"]
    first = of_small[0]
    assert first.title == "table1-train_tnl-0.4b-dtype_bf16-tokens65536-compile-parts"
    assert [line.n for line in first.lines][-2:] == [81920, 94208]
    assert [column.provider for column in first.columns] == ["lightning2", "lightning1"]
    assert first.cells[0][0].text == "176007 ±1.0 %"
    assert [cell.best for cell in first.cells[-1]] == [True, False]  # more is better
    assert of_small[1].cells[0][0].text == "50.0"
    assert of_small[2].cells[0][0].text == "40000"
    assert of_small[3].cells[0][0].text == "100.0 + 200.0 + 10.0"


def test_tables_of_metric_train_are_chosen_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, [*trained()[:9], replace(PAPER, median_ms=1.0)])
    report = make_report([path], metrics=["mfu"])
    assert {grid.kind for grid in report.grids} == {"mfu"}
    assert {row.record.metric for row in report.rows} == {"train"}


def test_plots_have_the_attentions_of_one_size_together() -> None:
    rows = rows_of(trained())
    drawings = drawings_of(rows, "plots")
    names = [Path(drawing.stem).name for drawing in drawings]
    assert names[:6] == [
        f"table1-train_0.4b-dtype_bf16-tokens65536-compile-parts-{name}"
        for name in ("tokens", "tokens-wide", "peak", "peak-wide", "energy", "energy-wide")
    ]
    assert len(names) == len(set(names)) == 3 * 6
    figure = drawings[0].figure()
    assert figure is not None
    lines = {item.get_gid(): item for item in figure.axes[0].get_lines() if item.get_gid()}
    assert set(lines) == {"series-lightning2", "series-lightning1", "series-sdpa-cudnn"}
    assert list(lines["series-lightning2"].get_xdata())[-1] == 94208
    texts = " ".join(text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")))
    heading = "Training tnl-0.4b, llama-0.4b, 65536 tokens per step or one sequence, parts compiled, bf16"
    assert heading in " ".join(texts.split())


def test_energy_per_token_is_drawn_against_the_length() -> None:
    figure = training_plot([r for r in trained() if r.model.endswith("0.4b")], "energy")
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "energy per token, training (mJ)"
    lines = {item.get_gid(): item for item in figure.axes[0].get_lines() if item.get_gid()}
    ours = list(lines["series-lightning2"].get_ydata())
    assert ours == [pytest.approx(1e3 * 600 / 176_000, rel=1e-3)] * 9
    assert max(lines["series-sdpa-cudnn"].get_ydata()) > 5 * ours[0]


def test_a_plot_needs_two_lengths() -> None:
    assert training_plot([record for record in trained() if record.seq_len == 1024], "tokens") is None


def test_the_page_has_one_view_of_training_whose_lines_name_the_model(tmp_path: Path) -> None:
    (view,), _ = views_of(make_report([written(tmp_path, trained())]).page_grids())
    assert view.title == "Training"
    assert view.axes == ["model", "recompute", "seq_len"]
    assert len(view.lines) == 6 * 9
    assert list(view.kinds) == ["tgs", "mfu", "peak", "phases", "train_energy"]
    assert "65536 tokens per step, parts compiled, bf16, longer sequences one at a time" in view.under
    assert "head" not in view.under


def test_rows_without_any_figure_say_why(tmp_path: Path) -> None:
    rows = [
        replace(
            PAPER, metric="energy", status="unavailable", reason=reason, provider=provider, case_id=provider
        )
        for provider, reason in (("a", "no counter here"), ("b", "needs a CUDA device"))
    ]
    said = r"none of 2 rows has a figure \(2 unavailable: no counter here\)"
    with pytest.raises(UsageError, match=said):
        make_report([written(tmp_path, rows)])


def test_the_page_draws_the_attentions_of_one_size_together(tmp_path: Path) -> None:
    (view,), _ = views_of(make_report([written(tmp_path, trained())]).page_grids())
    sizes = ["models of 0.4b", "models of 1b", "models of 3b, layers recomputed"]
    assert [choice.label for choice in plot_choices(view)] == [f"Over n: {size}" for size in sizes]
    assert len(plot_choices(view)[0].lines) == 2 * 9


def test_models_of_one_size_stay_apart_where_a_provider_trains_both(tmp_path: Path) -> None:
    rows = [r for r in trained() if r.model.endswith("-1b") and r.provider in ("lightning2", "sdpa-cudnn")]
    both = [replace(r, provider="ours", family="softmax", case_id=f"ours/{r.case_id}") for r in rows]
    (view,), _ = views_of(make_report([written(tmp_path, [*rows, *both])]).page_grids())
    assert [choice.label for choice in plot_choices(view)] == ["Over n: tnl-1b", "Over n: llama-1b"]
