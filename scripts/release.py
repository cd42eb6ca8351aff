"""Prepare a release in a clean checkout: version, date, CHANGELOG.md, a commit and an annotated tag.

Nothing is pushed.

    python -m scripts.release 0.1.0                     # today's date (UTC)
    python -m scripts.release 0.1.0 --date 2026-12-01

The message of the tag is the section of CHANGELOG.md. Notes that are written by hand beforehand, under
`## [VERSION] - not released`, take the place of what Unreleased lists, which is then left out: git keeps it.
Without such notes the list of Unreleased becomes the section.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from lightning_bench.machine.git import run_git

ROOT = Path(__file__).parents[1]
CHANGELOG, CITATION = "CHANGELOG.md", "CITATION.cff"
VERSIONS = {
    "pyproject.toml": r'^version = "(.+)"$',
    "lightning_bench/__init__.py": r'^__version__ = "(.+)"$',
    CITATION: r"^version: (.+)$",
}
"""The files that state the version, and how."""

_UNRELEASED = "## [Unreleased]\n"
_NEVER = " Nothing has been released yet."
_DATE = re.compile(r"^date-released: .*\n", re.MULTILINE)


class NotReady(Exception):  # noqa: N818 - says what was found
    """The checkout cannot be released; the message says why and what to do."""


def released(changelog: str, version: str, day: date) -> tuple[str, str]:
    """Return the changelog with an empty Unreleased and a dated section of `version`, and the text of that.

    Raise NotReady if the version has been released, or if there is nothing to tell.
    """
    if re.search(rf"^## \[{re.escape(version)}\] - \d", changelog, re.MULTILINE):
        raise NotReady(f"{CHANGELOG} has a section of {version} with a date: give another version")
    if changelog.count(_UNRELEASED) != 1:
        raise NotReady(f"{CHANGELOG} needs one line `{_UNRELEASED.strip()}`")
    head, rest = changelog.split(_UNRELEASED)
    listed, *sections = re.split(r"^(?=## \[)", rest, flags=re.MULTILINE)
    planned = f"## [{version}] - not released\n"
    notes = next(
        (section.removeprefix(planned) for section in sections if section.startswith(planned)), listed
    )
    if not notes.strip():
        raise NotReady(f"{CHANGELOG} lists nothing under Unreleased: there is nothing to release")
    older = [section for section in sections if not section.startswith(planned)]
    section = f"## [{version}] - {day.isoformat()}\n\n{notes.strip()}\n"
    parts = [head.replace(_NEVER, "") + _UNRELEASED, section, *(text.strip() + "\n" for text in older)]
    return "\n".join(parts), notes.strip()


def with_version(text: str, pattern: str, version: str) -> str:
    """Return `text` with the version that `pattern` finds replaced."""
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise NotReady(f"no line is like {pattern}")
    return text[: found.start(1)] + version + text[found.end(1) :]


def dated(citation: str, day: date) -> str:
    """Return CITATION.cff with the date of the release, on the line after the version."""
    return re.sub(
        r"^(version: .*\n)", rf"\g<1>date-released: {day.isoformat()}\n", _DATE.sub("", citation), flags=re.M
    )


def prepare(root: Path, version: str, day: date) -> None:
    """Change the files of the checkout in `root`, commit them and tag the commit. Raise NotReady."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise NotReady(f"{version} is no version: give three numbers, such as 0.1.0")
    tag = f"v{version}"
    if _git(root, "status", "--porcelain"):
        raise NotReady("files differ from the last commit: commit them, or set them aside")
    if _git(root, "tag", "--list", tag):
        raise NotReady(f"there is a tag {tag}: give another version, or remove it by `git tag -d {tag}`")
    changelog, notes = released((root / CHANGELOG).read_text(encoding="utf-8"), version, day)
    texts = {CHANGELOG: changelog}
    for name, pattern in VERSIONS.items():
        texts[name] = with_version((root / name).read_text(encoding="utf-8"), pattern, version)
    texts[CITATION] = dated(texts[CITATION], day)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    _git(root, "commit", "--quiet", "-m", f"Release {version}", *texts)
    # Lines of Markdown that begin with # are headings, and no comments.
    _git(
        root, "tag", "--annotate", "--cleanup=verbatim", "-m", f"lightning-bench {version}\n\n{notes}\n", tag
    )


def _git(root: Path, *arguments: str) -> str:
    done = run_git(root, *arguments)
    if done.returncode:
        raise NotReady(f"git {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def main() -> None:
    """Prepare the release that is named, and say what comes next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date())
    given = parser.parse_args()
    try:
        prepare(ROOT, given.version, given.date)
    except NotReady as problem:
        sys.exit(f"not prepared: {problem}")
    tag = f"v{given.version}"
    print(
        f"committed and tagged {tag}. Look: git show {tag}. Undo: git tag -d {tag} && git reset --hard HEAD~"
    )
    print("Next, as CONTRIBUTING.md says under Release: make test, then push the commit and the tag")


if __name__ == "__main__":
    main()
