"""The Triton implementations. Importing a module of this package imports triton."""
