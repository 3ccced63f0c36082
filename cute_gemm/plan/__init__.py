"""From a problem to a configuration. Pure Python: no torch, no DSL."""
