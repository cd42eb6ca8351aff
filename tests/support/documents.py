"""What the tests of documents share: fenced blocks, links, and where a link of the README leads."""

import re
import tomllib
from itertools import takewhile
from pathlib import Path

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
REPOSITORY = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"])
_PREFIXES = (
    f"{REPOSITORY}/blob/main/",
    f"{REPOSITORY}/tree/main/",
    f"{REPOSITORY}/raw/main/",
    REPOSITORY.replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/",
)


def block(text: str, language: str, holding: str) -> str:
    """Return the only fenced block of a language in `text` that holds some text."""
    blocks = [b for b in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holding in b]
    assert len(blocks) == 1, f"{len(blocks)} blocks of {language} hold {holding!r}"
    return str(blocks[0])


def table_after(text: str, marker: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the Markdown table that follows `<!-- marker -->`."""
    after = text.split(f"<!-- {marker} -->\n", 1)[1].splitlines()
    table = takewhile(lambda line: line.startswith("|"), after)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return cells[0], cells[2:]


def links(text: str) -> list[str]:
    """Return the target of every link and picture in Markdown, without code."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def file_behind(link: str) -> Path | None:
    """Return the file of this repository that an absolute link leads to, None if it leads elsewhere."""
    for prefix in _PREFIXES:
        if link.startswith(prefix):
            return ROOT / link.removeprefix(prefix).partition("#")[0]
    return None


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a Markdown file, as GitHub and mkdocs make them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
