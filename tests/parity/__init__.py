"""The package's networks against other implementations of the same."""
