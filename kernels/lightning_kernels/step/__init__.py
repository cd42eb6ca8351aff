"""One-token decoding against the state."""
