"""One file for each stage, which combines the other packages; stages share data on disk and never import each other."""
