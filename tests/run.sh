#!/usr/bin/env bash
# Installs what is missing, builds, and runs all unit tests: tests/run.sh [options of ctest]
# Environment: GPTQ_SHARED, the folder of shared test data (default: ../shared); GPTQ_BUILD_DIR (default: build/release).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/script_settings.sh

bash cmake/install_packages.sh build test
build=${GPTQ_BUILD_DIR:-build/release}
cmake --preset release -B "$build" -D GPTQ_WERROR="$werror"
cmake --build "$build" --parallel "$jobs"
ctest --test-dir "$build" --label-regex unit --output-on-failure --no-tests=error --parallel "$jobs" "$@"
