"""The study: whether shaping the trajectory beats blind jumps at equal budget."""
