"""A CPU emulator of the Gluon that the Hopper kernel is written in: it runs the kernel's own source.

`trials.run(Trial(...), seed)` calls the real host code forward and backward on an emulated device and judges
the results. What it checks and how to use it: docs/kernels.md.
"""
