"""Fixtures of the kernels' tests, which import what makes Triton's interpreter quick."""

from tests.support.kernel_cases import poison  # noqa: F401 (a fixture)
