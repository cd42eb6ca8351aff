"""Generators and checks: what makes or verifies files of the repository."""
