"""A figure over commits, and the commits that changed its level."""
