#!/usr/bin/env bash
# Renews requirements/*.txt from the .in files and the three pyproject.toml files. Needs uv. Names, versions and hashes only.
set -euo pipefail
cd "$(dirname "$0")/.."
projects=(pyproject.toml clients/python/pyproject.toml proto/gen/python/pyproject.toml)
options=(--quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-package hubbub-proto)
uv pip compile "${options[@]}" "$@" -o requirements/run.txt "${projects[@]}" requirements/run.in
uv pip compile "${options[@]}" "$@" -c requirements/run.txt -o requirements/cql.txt "${projects[@]}" requirements/cql.in
uv pip compile "${options[@]}" "$@" -c requirements/cql.txt -o requirements/dev.txt "${projects[@]}" requirements/dev.in
uv pip compile "${options[@]}" "$@" -c requirements/dev.txt -o requirements/foreign.txt requirements/foreign.in
