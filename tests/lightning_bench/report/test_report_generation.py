"""Reports of generation: both architectures of a size in one table, over the batch and over the prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_bench.record import ResultFile
from lightning_bench.report.document import make_report
from lightning_bench.report.page.views import views_of
from lightning_bench.report.plots.plot_files import drawings_of
from lightning_bench.report.tables.grid import grids
from lightning_bench.report.tables.groups import group
from tests.support.generated_rows import generated
from tests.support.report_rows import rows_of

KINDS = ["generated", "prefill", "decode", "held", "cache"]
NAME = "generate-generate_7b-dtype_bf16-compile-parts"


def test_both_architectures_of_a_size_share_a_table_over_the_batch() -> None:
    tables = grids(group(rows_of(generated())))
    assert [grid.title for grid in tables] == [f"{NAME}-new1024"] * 5 + [f"{NAME}-new128"] * 5
    assert [grid.kind for grid in tables] == KINDS * 2
    first, prefill, decode, held, cache = tables[:5]
    assert first.heads == ["batch", "n"]
    assert first.texts == [[str(batch), "512"] for batch in (1, 4, 16, 64, 128, 256)]
    assert [column.provider for column in first.columns] == ["lightning2", "sdpa-efficient"]
    assert [cell.text for cell in first.cells[-1]][1] == "OOM"
    assert first.cells[0][0].text == "244 ±1.0 %"
    assert prefill.cells[0][0].text == "50.00"
    assert decode.cells[0][0].text == "4.061 (3500 GB/s)"
    assert held.cells[0][0].text == "13782"
    assert [cell.text for cell in cache.cells[0]] == ["62.0", "720.0"]
    assert any("sdpa-efficient: oom at n = 512 (batch 256)" in note for note in first.notes)
    over_prompts = tables[5]
    assert over_prompts.heads == ["n"]
    assert [line.n for line in over_prompts.lines] == [1024, 2048, 4096, 8192, 16384, 32768]


def test_architectures_that_share_a_line_may_be_of_two_devices() -> None:
    apart = [replace(r, gpu_uuid=r.family) for r in generated()]
    assert (
        grids(group(rows_of(apart)))[0]
        .notes[0]
        .startswith("Not all times are of one device: gpu_uuid differs")
    )
    lines = [replace(r, gpu_uuid=f"g{r.batch}") for r in generated()]
    assert grids(group(rows_of(lines)))[0].notes[0].startswith("Each shape was measured on one device")


def test_plots_are_over_the_batch_and_over_the_prompt() -> None:
    drawings = drawings_of(rows_of(generated()), "plots")
    drawn = {Path(drawing.stem).name: figure for drawing in drawings if (figure := drawing.figure())}
    assert set(drawn) == {
        f"{NAME}-{over}-{kind}{wide}"
        for over in ("new1024-prompt512", "new128-batch8")
        for kind in ("tokens", "peak")
        for wide in ("", "-wide")
    }
    lines = {
        item.get_gid(): list(item.get_xdata())
        for item in drawn[f"{NAME}-new1024-prompt512-tokens"].axes[0].get_lines()
        if item.get_gid()
    }
    assert lines == {
        "series-lightning2": [1, 4, 16, 64, 128, 256],
        "series-sdpa-efficient": [1, 4, 16, 64, 128],
    }
    figure = drawn[f"{NAME}-new128-batch8-tokens"]
    texts = " ".join(text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")))
    heading = "Generation, tnl-7b, llama-7b, batch 8, 128 new tokens, parts compiled, bf16"
    assert heading in " ".join(texts.split())


def test_the_page_has_one_view_of_generation(tmp_path: Path) -> None:
    path = tmp_path / "generate-generate.csv"
    with ResultFile(path) as file:
        for record in generated():
            file.append(record)
    (view,), _ = views_of(make_report([path]).page_grids())
    assert view.title == "Generation"
    assert view.axes == ["new_tokens", "batch", "seq_len"]
    assert len(view.lines) == 6 + 6
    assert list(view.kinds) == KINDS
    assert {grid.kind for grid in make_report([path], metrics=["generate"]).grids} == set(KINDS)
