"""Fixtures of the kernels' tests."""

from tests.support.kernel_cases import poison  # noqa: F401 (a fixture)
