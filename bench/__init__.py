"""Measurements of a whole instance. `python -m bench` takes the first figures; each `bench.<name>` one of the others.

Every measurement writes var/figures/<name>.json; `python -m bench.report` merges them into docs/report.json.
"""
