"""Models in and out: model directories, `load`, export with a model card, import of FS-DFM's checkpoints."""
