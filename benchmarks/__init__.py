"""Scripts that measure what no suite does; each writes a CSV for results/."""
