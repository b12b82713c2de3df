"""Flow and models put together: the teacher, compass and student in training, and the trajectories that students learn from."""
