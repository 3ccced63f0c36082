"""From a configuration to a launched kernel: one road for every operation."""
