"""Tables to plots."""
