"""From a ConfigDict and flags to the frozen dataclasses of the other packages, and which networks a config makes."""
