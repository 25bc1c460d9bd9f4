#!/usr/bin/env bash
# Checks that the sources are formatted as clang-format 14 does it. Exits with 77 (skipped) where it is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tool=""
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" >/dev/null && "$candidate" --version | grep -q 'version 14\.'; then tool=$candidate; fi
done
if [ -z "$tool" ]; then
  echo "skipped: clang-format 14 is not installed ($(clang-format --version 2>/dev/null || echo none))"
  exit 77
fi
find include tests examples bench -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' |
  xargs "$tool" --dry-run --Werror
echo "formatted as $tool does it"
