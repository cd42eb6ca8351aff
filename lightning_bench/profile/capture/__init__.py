"""The child process that runs one case under the profiler."""
