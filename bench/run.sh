#!/usr/bin/env bash
# Builds and runs the benchmarks: bench/run.sh [filter] [options of Google Benchmark]
# A regular expression selects by name. The results lie as JSON in build/bench/results/<program>.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/script_settings.sh

filter=${1:-.}
shift || true
bash cmake/install_packages.sh build bench
cmake --preset bench >/dev/null
cmake --build --preset bench --parallel "$jobs"
mkdir -p build/bench/results
ran=0
for program in build/bench/bench/bench_*; do
  [ -x "$program" ] || continue
  name=$(basename "$program")
  names=$("$program" --benchmark_list_tests --benchmark_filter="$filter" 2>/dev/null | grep -v '^Failed to match' || true)
  [ -n "$names" ] || continue
  "$program" --benchmark_filter="$filter" --benchmark_out="build/bench/results/$name.json" \
    --benchmark_out_format=json "$@"
  ran=$((ran + 1))
done
if [ "$ran" -eq 0 ]; then
  echo "no benchmark matches '$filter'" >&2
  exit 1
fi
echo "results: build/bench/results"
