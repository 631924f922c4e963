"""Fuzz of the stream edge: frames and messages that are nearly right, cut in any way, against a node without sockets.

`make fuzz MINUTES= SEED=` or `python -m tests.fuzz --seed 7 --minutes 10`. All of an execution comes from the seed and
its number: `--only NUMBER` plays one again. What was found is a named test in `test_fuzz.py`.
"""
