"""Device code in the CuTe DSL."""
