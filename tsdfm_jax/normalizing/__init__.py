"""The networks of the second method and their training: puts `ntm` and `models` together."""
