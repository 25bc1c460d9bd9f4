#!/usr/bin/env bash
# What an include costs: the median of five compilations, in seconds of processor time, of a file with nothing else.
# Fails where it is over the aim given. Environment: CXX (default: c++).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec 3>&2  # where the compiler speaks; the shell's "time" goes to the pipe
over=0
printf '%-46s %8s %6s\n' "include" "seconds" "aim"
measure() {
  local name=$1 aim=$2
  shift 2
  printf '#include <%s>\n' "$@" >"$work/unit.cpp"
  for _ in 1 2 3 4 5; do
    ( TIMEFORMAT='%U %S'
      time ${CXX:-c++} -std=c++20 -O2 -I include -isystem /usr/include/eigen3 -fopenmp -c "$work/unit.cpp" -o "$work/unit.o" 2>&3 ) 2>&1 |
      awk '{ print $1 + $2 }'
  done | sort -n | sed -n 3p >"$work/median"
  printf '%-46s %8.2f %6.1f\n' "$name" "$(cat "$work/median")" "$aim"
  awk -v t="$(cat "$work/median")" -v aim="$aim" 'BEGIN { exit t > aim }' || over=1
}
measure "gptq/gptq.hpp" 1 gptq/gptq.hpp
measure "gptq/gptq.hpp, gptq/backend/host.hpp" 4 gptq/gptq.hpp gptq/backend/host.hpp
exit "$over"
