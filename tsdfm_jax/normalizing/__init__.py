"""Normalizing trajectory models put together: settings to networks, learners and samplers."""
