"""Other libraries' names for what this one does, for code that was written for them."""
