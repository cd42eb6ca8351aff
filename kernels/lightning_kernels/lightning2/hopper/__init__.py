"""The Hopper implementation in Gluon, triton's lower-level language. Importing a module imports triton."""
