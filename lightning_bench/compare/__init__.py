"""Two sets of rows to verdicts: was anything slower, larger or broken? Reads files and imports no torch."""
