"""The mathematics: it is handed posteriors and energies as functions and knows no network."""
