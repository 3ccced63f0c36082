"""Every rule of a call, once, beside what is said where it is broken."""
