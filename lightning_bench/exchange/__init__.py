"""Results in the formats of other tools: rows exported to them, and their files read for `lbench compare`."""
