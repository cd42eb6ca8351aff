"""From two sets of rows to verdicts: is anything slower, larger or broken? Imports no torch."""
