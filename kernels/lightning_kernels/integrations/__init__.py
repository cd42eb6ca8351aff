"""Other libraries with these kernels in place of theirs: one module per library, imported on its own."""
