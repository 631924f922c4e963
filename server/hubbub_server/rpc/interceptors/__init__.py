"""What is around every RPC: log, conformance, errors, limits, authentication, deadline."""
