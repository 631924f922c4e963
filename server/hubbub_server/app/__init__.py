"""Use cases and the sans-IO session, on domain and ports."""
