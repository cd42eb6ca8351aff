"""Commands that take their options as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from lightning_bench.cli.shared.axis_options import Axes
from lightning_bench.cli.shared.option_groups import grouped

received: list[object] = []


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="Columns.", rich_help_panel="Size")]
    height: Annotated[int | None, typer.Option(help="Rows.", rich_help_panel="Size")] = None


@dataclass(frozen=True)
class Ink:
    colours: Annotated[list[str] | None, typer.Option("--colour")] = None
    dry: Annotated[bool, typer.Option("--dry")] = False


@grouped
def draw(
    *,
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE")],
    size: Size,
    title: Annotated[str, typer.Option(help="Above it.")] = "none",
    ink: Ink,
) -> None:
    """Draw."""
    received.append((context.info_name, path, size, title, ink))


def run(*arguments: str) -> tuple[int, list[object], str]:
    app = typer.Typer(add_completion=False)
    app.command("draw")(draw)
    received.clear()
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, list(received), result.output


def test_a_command_receives_its_groups_as_values() -> None:
    assert run("a.png", "--width", "3")[:2] == (0, [("draw", Path("a.png"), Size(3), "none", Ink())])
    typed = ["a.png", "--height", "4", "--width", "3", "--colour", "red", "--colour", "blue", "--dry"]
    expected = (Size(3, 4), "none", Ink(["red", "blue"], True))
    assert run(*typed, "--title", "none")[:2] == (0, [("draw", Path("a.png"), *expected)])


def test_typer_checks_each_option_of_a_group() -> None:
    assert run("a.png")[:2] == (2, [])
    code, values, output = run("a.png", "--width", "0")
    assert (code, values) == (2, [])
    assert "--width" in output


def test_help_lists_options_in_the_order_of_parameters_and_fields() -> None:
    code, _, output = run("--help")
    assert code == 0
    options = [word for word in output.split() if word.startswith("--") and word != "--help"]
    assert options == ["--title", "--colour", "--dry", "--width", "--height"]
    assert "Size" in output


def test_two_options_of_one_name_are_an_error() -> None:
    def twice(*, size: Size, width: int = 1) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        grouped(twice)


def test_provider_names_are_split_but_not_looked_up() -> None:
    assert Axes().provider_names == []
    assert Axes(provider=["a, b", "c"]).provider_names == ["a", "b", "c"]
