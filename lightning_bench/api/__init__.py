"""What `import lightning_bench` offers to Python: measure, read and compare, as the command line does.

The names are imported when they are first used: see `lightning_bench.__init__`.
"""
