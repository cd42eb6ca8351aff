"""The scan of GateLoop."""
