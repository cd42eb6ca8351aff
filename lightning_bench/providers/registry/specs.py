"""How a user names a provider's code: `path/to/file.py:NAME` or `hub:ORG/NAME@REVISION:FUNCTION`.

Behind either may be `@FAMILY` and `@LAYOUT` of a plain function. Anything else is the name of a provider.
"""

from __future__ import annotations

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
    """Return `spec` with the family and the layout of a plain function, if it names code and none of both.

    A provider's name is returned as it is, and so is code if there is no family.
    """
    name = split_code_spec(spec)[1] if is_code_spec(spec) else ""
    if not family or not name or "@" in name:
        return spec
    return f"{spec}@{family}" + (f"@{layout}" if layout else "")
