"""Bytes that must not change by accident: records are storage, frames are what old clients read, errors are a contract.

`python -m tests.golden.remake` writes samples that are new; `--replace` also those that changed.
"""
