"""A kernel that does nothing but what a dependent launch asks for."""

import cutlass.cute as cute
from cutlass import Int32

_WARP = 32


class EmptyKernel:
    """One warp, which waits for the kernel before and lets the next one begin."""

    @cute.jit
    def __call__(self, mX: cute.Tensor, pdl: Int32, stream):
        """Launches on ``stream`` of the device that ``mX`` is on."""
        self.kernel().launch(grid=(1, 1, 1), block=(_WARP, 1, 1), stream=stream, use_pdl=pdl)

    @cute.kernel
    def kernel(self):
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
