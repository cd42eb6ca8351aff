"""A figure over commits, with its changes marked."""
