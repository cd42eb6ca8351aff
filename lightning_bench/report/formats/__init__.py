"""Tables to text in several formats."""
