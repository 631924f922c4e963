"""Kills parts under load and checks every history afterwards. `python -m tests.soak --seed 7 --minutes 10`."""
