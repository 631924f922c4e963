"""Servicers and interceptors through a real gRPC channel, on fakes."""
