"""Which CTA computes which tile: integer code in the DSL that also runs on the host."""
