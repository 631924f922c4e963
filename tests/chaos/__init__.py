"""Faults under load; afterwards everything that was heard is compared with what is there."""
