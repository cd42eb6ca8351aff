"""Hook of mkdocs: links of docs/ that leave it lead to the repository, and pictures are copied into the site.

On GitHub `../results/README.md` leads to a file beside docs/; the site has only docs/. A link to a file that
does not exist stays as it is, and `mkdocs build --strict` fails on it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures outside docs/ that its pages show, by their paths in the repository."""
    for page in files.documentation_pages():
        for shown, _, link, _ in _OUTSIDE.findall(page.content_string):
            path = _in_repository(link)
            if shown and (ROOT / path).is_file() and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page with the links that leave docs/ turned to where the site has the files."""

    def turned(link: re.Match[str]) -> str:
        shown, text, target, anchor = link[1], link[2], _in_repository(link[3]), link[4] or ""
        if not (ROOT / target).exists():
            return link[0]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        address = target if shown else f"{config.repo_url}/{kind}/main/{target}{anchor}"
        return f"{shown}[{text}]({address})"

    return _OUTSIDE.sub(turned, markdown)


def _in_repository(link: str) -> str:
    return posixpath.normpath(posixpath.join("docs", link))
