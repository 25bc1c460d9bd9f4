#!/usr/bin/env bash
# On a machine with a GPU: configures, builds, tests and benchmarks the CUDA backend, and ends with a table.
#   tests/run_cuda.sh [arguments of bench_cuda_stages]
# Environment: GPTQ_BUILD_DIR (default build/cuda), GPTQ_CUDA_ARCH (default 90), CMAKE_PREFIX_PATH where Catch2 is not
# installed in the system, GPTQ_SKIP_BENCH=1, GPTQ_BENCH_MODEL (a folder to quantize), GPTQ_SANITIZER=1 to run the tests under compute-sanitizer too.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${GPTQ_BUILD_DIR:-build/cuda}
arch=${GPTQ_CUDA_ARCH:-90}
begin=$SECONDS

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi"
nvcc --version | sed -n 's/.*release/nvcc release/p'
cmake -S . -B "$build" -D CMAKE_BUILD_TYPE=Release -D CMAKE_CUDA_ARCHITECTURES="$arch" -D GPTQ_CUDA=ON \
  -D GPTQ_COMPONENTS="model;cuda" -D GPTQ_BUILD_EXAMPLES=OFF -D GPTQ_BUILD_BENCHMARKS=ON -D GPTQ_INSTALL=OFF >/tmp/gptq_configure.log 2>&1 ||
  { cat /tmp/gptq_configure.log; exit 1; }
cmake --build "$build" --parallel "$(nproc)" --target test_cuda bench_cuda_stages bench_cuda_model || exit 1
echo "built in $((SECONDS - begin)) s"

status=0
"$build/tests/test_cuda" || status=$?
if [ "${GPTQ_SANITIZER:-0}" = 1 ]; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/test_cuda" '~[slow]' 2>&1 | tail -4
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
  done
fi
if [ "${GPTQ_SKIP_BENCH:-0}" != 1 ]; then
  "$build/bench/bench_cuda_stages" "$@" || status=1
fi
# A folder made beforehand (real shapes, random weights): the whole way, twice, for the second run has a warm page cache.
if [ -n "${GPTQ_BENCH_MODEL:-}" ]; then
  for quality in 0 0 1; do
    "$build/bench/bench_cuda_model" "$GPTQ_BENCH_MODEL" "${TMPDIR:-/tmp}/gptq-bench-out" 128 2048 0 $quality || status=1
  done
  rm -rf "${TMPDIR:-/tmp}/gptq-bench-out"
fi
echo "tests: $([ $status = 0 ] && echo passed || echo FAILED), $((SECONDS - begin)) s in all"
exit $status
