"""Breaks each promise on purpose and expects the named test to notice. `python -m tests.mutants`.

A `G<promise>-<name>.patch` starts with lines `Promise:`, `Mutant:` (what is broken) and `Test:` (the node id of the
test that must fail), then the diff. G7 (presence) and G10 (unread numbers) are promises of later issues: they have no
code yet and no mutants.
"""
