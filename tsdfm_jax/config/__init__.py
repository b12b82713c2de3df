"""From a ConfigDict and flags to the frozen dataclasses that the rooms take, and which networks a config makes."""
