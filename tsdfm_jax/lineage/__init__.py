"""What each artefact of a run was made of, and whether that still holds; knows no particular stage."""
