"""What several runs measured, side by side."""
