"""Records to tables. Reads rows and nothing else: no torch, usable on a laptop."""
