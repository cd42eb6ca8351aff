"""Grids as LaTeX: one document that compiles as it is, each of whose tables can be pasted into a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lightning_bench.report.tables.grid import Grid, GridColumn

_PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[margin=2cm]{geometry}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
"""
_WIDE = 7  # columns from which a table is scaled to the line
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "×": r"\ensuremath{\times}",
    "÷": r"\ensuremath{\div}",
    "±": r"\ensuremath{\pm}",
    "·": r"\ensuremath{\cdot}",
    "²": r"\texttwosuperior{}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "→": r"\ensuremath{\to}",
    "−": r"\ensuremath{-}",
    "λ": r"\ensuremath{\lambda}",
    "μ": r"\ensuremath{\mu}",
    "µ": r"\ensuremath{\mu}",
    "°": r"\textdegree{}",
    "…": r"\dots{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
}
_LETTERS = re.compile(r"[ -~À-ÖØ-öø-ÿ]")  # what T1 has under its own name


def latex(grids: Iterable[Grid], *, heading: str, remarks: Sequence[str] = ()) -> str:
    """Return a document with `heading`, `remarks` and one booktabs table per page, all text escaped."""
    parts = [_PREAMBLE + rf"\section*{{{escape(heading)}}}", *map(escape, remarks)]
    parts += (table(grid, number) for number, grid in enumerate(grids, start=1))
    return "\n\n".join([*parts, r"\end{document}"]) + "\n"


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is; what pdflatex has no letter for becomes a question mark."""
    letters = "".join(_SPECIAL.get(c) or (c if _LETTERS.match(c) else "?") for c in text)
    return re.sub("-(?=-)", "-{}", letters)  # two hyphens in a row would become a dash


def table(grid: Grid, number: int) -> str:
    """Return one table environment, its units in the caption, the best value of each row in bold."""
    lines = [
        r"\begin{table}[p]",
        r"\centering",
        rf"\caption{{\texttt{{{escape(grid.title)}}}: {escape(grid.unit)}.}}",
        rf"\label{{tab:{_label(grid, number)}}}",
    ]
    if grid.columns:
        lines += _tabular(grid)
    lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
    lines += (rf"{escape(line)}\par" for line in (*grid.notes, *grid.origin))
    return "\n".join([*lines, r"\end{minipage}", r"\end{table}", r"\clearpage"])


def _tabular(grid: Grid) -> list[str]:
    heads = ["$n$" if name == "n" else escape(name) for name in grid.heads]
    wide = len(heads) + len(grid.columns) > _WIDE
    lines = [r"\resizebox{\linewidth}{!}{%"] if wide else []
    under = [escape(_under(column)) for column in grid.columns]
    lines += [
        rf"\begin{{tabular}}{{{'r' * (len(heads) + len(grid.columns))}}}",
        r"\toprule",
        _line([*heads, *(rf"\texttt{{{escape(column.provider)}}}" for column in grid.columns)]),
        *([_line([*[""] * len(heads), *under])] if any(under) else []),
        r"\midrule",
    ]
    for line, cells in zip(grid.texts, grid.cells, strict=True):
        texts = (rf"\textbf{{{escape(c.text)}}}" if c.best else escape(c.text) for c in cells)
        lines.append(_line([*map(escape, line), *texts]))
    return [*lines, r"\bottomrule", r"\end{tabular}" + ("}" if wide else "")]


def _under(column: GridColumn) -> str:
    return column.over or column.family.replace("_", " ")


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _label(grid: Grid, number: int) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{grid.title}-{grid.kind}").strip("-")
    return f"{name}-{number}"
