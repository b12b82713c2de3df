"""The mathematics of the method: it gets posteriors and energies as functions and knows no network."""
