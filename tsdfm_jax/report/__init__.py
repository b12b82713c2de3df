"""The page: one self-contained file that shows a report and lets one walk through its trajectories."""
