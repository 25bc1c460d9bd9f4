#!/usr/bin/env bash
# Installs what is missing, builds the app, quantizes the bundled model to 4 bits, and prints size, time and perplexity
# before and after: examples/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/script_settings.sh

model=examples/models/bard-qwen2-1m
build=build/quickstart
output=$build/bard-qwen2-1m-4bit
bash cmake/install_packages.sh build
mkdir -p "$build"
log=$build/build.log
echo "Building the app for this machine (-march=native -mtune=generic) …"
if ! { cmake --preset release -B "$build" -D GPTQ_BUILD_TESTS=OFF -D GPTQ_CUDA=OFF -D GPTQ_NATIVE=ON &&
       cmake --build "$build" --target gptq_app --parallel "$jobs"; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "the build failed; its output is in $log" >&2
  exit 1
fi
gptq=$build/gptq

echo "\$ gptq quantize $model $output --calibration $model/calibration.txt --bits 4 --overwrite"
begin=$(date +%s.%N)
"$gptq" quantize "$model" "$output" --calibration "$model/calibration.txt" --bits 4 --overwrite
end=$(date +%s.%N)

bytes() { cat "$1"/*.safetensors | wc -c; }
number() { sed -n "s/.*\"$2\" *: *\([-+0-9.eE]*\).*/\1/p" <<<"$1" | head -n 1; }
before=$("$gptq" perplexity "$model" --text "$model/evaluation.txt" --json | tr -d '\n')
after=$("$gptq" perplexity "$output" --text "$model/evaluation.txt" --reference "$model" --json | tr -d '\n')
echo
awk -v b0="$(bytes "$model")" -v b1="$(bytes "$output")" -v p0="$(number "$before" perplexity)" \
    -v p1="$(number "$after" perplexity)" -v kl="$(number "$after" kl)" -v top1="$(number "$after" top1)" \
    -v begin="$begin" -v end="$end" 'BEGIN {
  if (p0 + 0 <= 0 || p1 + 0 <= 0) { print "no perplexity was printed" > "/dev/stderr"; exit 1 }
  printf "%-34s %12s %12s\n", "", "before", "after"
  printf "%-34s %12.2f %12.2f\n", "weights, MB", b0 / 1e6, b1 / 1e6
  printf "%-34s %12.3f %12.3f\n", "perplexity on evaluation.txt", p0, p1
  printf "%-34s %12s %12.5f\n", "KL divergence from the original", "", kl
  printf "%-34s %12s %12.4f\n", "same most likely token", "", top1
  printf "%-34s %12s %12.2f\n", "time to quantize, seconds", "", end - begin
}'
echo
echo "The quantized model is in $output"
