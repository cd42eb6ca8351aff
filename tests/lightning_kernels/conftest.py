"""Without a GPU the kernels run in the Triton interpreter, turned on by kernel_cases."""

from tests.support.kernel_cases import poison  # noqa: F401 (a fixture)
