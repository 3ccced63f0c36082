"""What is raised of packs; by itself, as most processes have none."""


class PackError(RuntimeError):
    """A pack, or a kernel of it, is not used: the message says why."""
