"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console


def wide_console(least: int = 130) -> Console:
    """Standard output, at least so many columns wide.

    Rich would cut figures to fit a narrow terminal, or the 80 columns it gives a pipe; let lines wrap.
    """
    console = Console()
    return Console(width=max(console.width, least))
