"""Fixtures of the kernels' tests."""

from tests.support.kernel_cases import poison, tools  # noqa: F401 (fixtures)
