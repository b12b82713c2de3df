"""The report page: one self-contained HTML file with the metrics, the figures and a viewer for trajectories."""
