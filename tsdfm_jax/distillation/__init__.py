"""Flow and models combined: training of teacher, compass and student, and the trajectories that students learn from."""
