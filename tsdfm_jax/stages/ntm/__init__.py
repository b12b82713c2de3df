"""One file for each stage of a normalizing trajectory model; stages meet on disk and never import each other."""
