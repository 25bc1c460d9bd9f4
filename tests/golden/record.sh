#!/usr/bin/env bash
# Builds the app and records anew, for this machine and compiler, the sums of what it writes: tests/golden/record.sh [regex of settings]
# Environment: GPTQ_BUILD_DIR (build/release), GPTQ_SHARED (../shared), without which the settings of other models stay as they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source cmake/script_settings.sh
build=${GPTQ_BUILD_DIR:-build/release}
[ -f "$build/CMakeCache.txt" ] || cmake --preset release -B "$build"
cmake --build "$build" --parallel "$jobs" --target gptq_app golden_fingerprint
exec bash tests/golden/golden.sh record "$build/gptq" "$build/tests/golden/golden_fingerprint" "$@"
