"""Tests by level, a folder each; `python -m tests.soak` and `python -m tests.mutants` run the long ones."""
