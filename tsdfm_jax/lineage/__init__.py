"""What a stage was begun with and what it left, written beside its result; knows no stage."""
