"""Running things on devices: mesh, state, loop, checkpoints, metrics, signals; knows no network and no text."""
