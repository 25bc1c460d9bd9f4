#!/usr/bin/env bash
# Prints the shape of the house: sizes, includes, parameters, docstrings. tests/checks/structure.sh [--all]
exec python3 "$(dirname "${BASH_SOURCE[0]}")/structure.py" "$@"
