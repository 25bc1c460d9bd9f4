#!/usr/bin/env bash
# Compares with the published procedure in PyTorch and with the machine's own rate of a plain product, in turns on the
# same machine: bench/compare.sh [rounds]
# Needs a Python with torch: $PYTHON (default: python3). Leave the machine alone meanwhile: a run whose plain product is
# slower than 90 % of the best one seen is marked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/script_settings.sh

rounds=${1:-3}
python=${PYTHON:-python3}
"$python" -c 'import torch' 2>/dev/null || { echo "no torch in $python: set PYTHON to one that has it" >&2; exit 1; }
bash cmake/install_packages.sh build bench
cmake --preset bench >/dev/null
cmake --build --preset bench --parallel "$jobs" --target bench_solve bench_gram
results=build/bench/compare
mkdir -p "$results"
rm -f "$results"/*.json
for threads in 2 1; do
  for ((round = 1; round <= rounds; ++round)); do
    OMP_NUM_THREADS=$threads build/bench/bench/bench_gram --benchmark_filter='gemm/4096|gram/float/in:4096' \
      --benchmark_format=json >"$results/gram-$threads-$round.json" 2>/dev/null
    OMP_NUM_THREADS=$threads build/bench/bench/bench_solve --benchmark_filter='factor/in:4096|solve.*/out:4096/in:4096' \
      --benchmark_format=json >"$results/solve-$threads-$round.json" 2>/dev/null
    "$python" bench/torch_procedure.py --threads "$threads" --repeat 1 >"$results/torch-$threads-$round.json"
  done
done
"$python" bench/compare_report.py "$results"
