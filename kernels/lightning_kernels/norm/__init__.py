"""SimpleRMSNorm."""
