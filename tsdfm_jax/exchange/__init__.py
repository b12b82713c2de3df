"""Models that come and go: model directories, `load`, export with its card, import of FS-DFM's checkpoints."""
