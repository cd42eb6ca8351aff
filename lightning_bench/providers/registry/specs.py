"""How a user names a provider's code: `path/to/file.py:NAME` or `hub:ORG/NAME@REVISION:FUNCTION`.

Behind either may be `@FAMILY` and `@LAYOUT` of a plain function. Anything else is the name of a provider.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightning_bench.errors import UsageError

_HUB = "hub:"


def is_file_spec(spec: str) -> bool:
    """Return whether `spec` means a file rather than the Hub or the name of a provider."""
    return not is_hub_spec(spec) and (".py:" in spec or spec.endswith(".py") or "/" in spec or "\\" in spec)


def is_hub_spec(spec: str) -> bool:
    """Return whether `spec` means a kernel of the Hugging Face kernels Hub."""
    return spec.startswith(_HUB)


def is_code_spec(spec: str) -> bool:
    """Return whether `spec` names code, which may be a plain function, rather than a provider."""
    return is_hub_spec(spec) or is_file_spec(spec)


def split_code_spec(spec: str) -> tuple[str, str]:
    """Return the file, or ORG/NAME@REVISION, of `spec` and the NAME in it with its marks, which may be ""."""
    code = spec.removeprefix(_HUB)
    where, colon, name = code.rpartition(":")
    if not colon or not (is_hub_spec(spec) or where.endswith(".py")):
        where, name = code.rstrip(":"), ""
    return where, name.strip()


def with_family(spec: str, family: str | None, layout: str | None = None) -> str:
    """Return `spec` with the family and the layout of a plain function, if it names code.

    Code that names a family keeps it, and gets the layout if the family is the same and it names none. A
    provider's name is returned as it is, and so is code if there is no family.
    """
    name = split_code_spec(spec)[1] if is_code_spec(spec) else ""
    if not family or not name:
        return spec
    own_family, own_layout = own_marks(spec)
    if own_family not in ("", family):
        return spec
    marked = spec if own_family else f"{spec}@{family}"
    return marked + (f"@{layout}" if layout and not own_layout else "")


def own_marks(spec: str) -> tuple[str, str]:
    """Return the family and the layout that code names itself, as `mine.py:attn@softmax@bnhd` does, or ""."""
    name = split_code_spec(spec)[1] if is_code_spec(spec) else ""
    family, _, layout = name.partition("@")[2].partition("@")
    return family, layout


def refuse_other_marks(specs: Iterable[str], *, dashes: str = "", **given: str | None) -> None:
    """Raise UsageError for a `family` or `layout` that is given beside code that all names another itself.

    `dashes` stand before their names in the message.
    """
    marks = {spec: own_marks(spec) for spec in specs if is_code_spec(spec)}
    for at, what in enumerate(("family", "layout")):
        wanted = given.get(what)
        if wanted and marks and all(own[at] not in ("", wanted) for own in marks.values()):
            spec, own = next(iter(marks.items()))
            raise UsageError(
                f"{dashes}{what} is {wanted}, and `{spec}` names {own[at]} itself: leave one of them out"
            )
