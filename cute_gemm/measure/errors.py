"""What a command raises."""

from __future__ import annotations


class CommandError(ValueError):
    """A command cannot do what was asked; the message says what, and why not. It is all that is printed."""
