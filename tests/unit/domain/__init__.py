"""Every rule of the domain."""
