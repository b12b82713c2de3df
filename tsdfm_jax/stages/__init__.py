"""One file a stage: puts the rooms together; stages meet on disk and never import each other."""
