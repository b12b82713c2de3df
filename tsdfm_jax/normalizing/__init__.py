<<<<<<< HEAD
"""The networks of the second method and their training: puts `ntm` and `models` together."""
=======
"""Normalizing trajectory models put together: settings to networks, learners and samplers."""
>>>>>>> ntm-b
