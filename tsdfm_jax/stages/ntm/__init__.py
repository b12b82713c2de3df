"""The stages of the second method, one a file; they meet on disk."""
