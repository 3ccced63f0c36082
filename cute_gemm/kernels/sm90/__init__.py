"""What kernels for Hopper are built from: WGMMA, shared memory, TMA, pipelines. No part knows a recipe."""
