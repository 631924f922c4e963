"""Bytes and values, without transports."""
