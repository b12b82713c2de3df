"""Ways to start the main command: on one machine, on a cluster, and many times over with other settings."""
