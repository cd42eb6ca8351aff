"""The parent process that starts the child and the external profilers."""
