#!/usr/bin/env bash
# The accuracy table: quantizes models of the shared test data with many settings and prints KL, top-1 and perplexity on
# held-out text: tests/accuracy.sh [filter]
# Environment: GPTQ (the app; default build/release/gptq), GPTQ_SHARED (default ../shared), MODEL (default web-qwen2-22m).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
gptq=${GPTQ:-build/release/gptq}
shared=${GPTQ_SHARED:-../shared}
model=$shared/models/${MODEL:-web-qwen2-22m}
filter=${1:-.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -x "$gptq" ] || { echo "no app at $gptq: run tests/run.sh, or set GPTQ" >&2; exit 1; }
[ -d "$model" ] || { echo "no model at $model" >&2; exit 1; }

# name | options
rows=(
  "w4g128 default|--bits 4"
  "w3g128 default|--bits 3"
  "w2g64 default|--bits 2 --group-size 64"
  "w8g128 default|--bits 8"
  "w4g128 natural minmax damp .05|--bits 4 --order natural --mse 0 --damp-percent 0.05"
  "w4g128 gar minmax damp .05|--bits 4 --mse 0 --damp-percent 0.05"
  "w4g128 gar mse damp .05|--bits 4 --damp-percent 0.05"
  "w4g128 desc_act minmax damp .05|--bits 4 --order desc_act --mse 0 --damp-percent 0.05"
  "w4g32 gar minmax damp .05|--bits 4 --group-size 32 --mse 0 --damp-percent 0.05"
  "w4g-1 natural minmax damp .05|--bits 4 --group-size -1 --order natural --mse 0 --damp-percent 0.05"
  "w4g128 asym gar minmax damp .05|--bits 4 --no-sym --mse 0 --damp-percent 0.05"
  "w3g128 gar minmax damp .05|--bits 3 --mse 0 --damp-percent 0.05"
  "w3g128 gar mse damp .05|--bits 3 --damp-percent 0.05"
  "w3g128 desc_act mse damp .05|--bits 3 --order desc_act --damp-percent 0.05"
  "w2g64 gar mse damp .05|--bits 2 --group-size 64 --damp-percent 0.05"
  "w2g64 asym gar minmax damp .05|--bits 2 --group-size 64 --no-sym --mse 0 --damp-percent 0.05"
  "w2g64 asym gar mse damp .05|--bits 2 --group-size 64 --no-sym --damp-percent 0.05"
  "w8g128 gar minmax damp .05|--bits 8 --mse 0 --damp-percent 0.05"
  "w4g128 parity preset|--bits 4 --preset parity"
)
printf '%-36s %10s %8s %10s %8s\n' settings KL top-1 perplexity seconds
for row in "${rows[@]}"; do
  name=${row%%|*}
  options=${row#*|}
  grep -qE -- "$filter" <<<"$name" || continue
  read -ra words <<<"$options"
  "$gptq" quantize "$model" "$work/out" --calibration "$shared/text/calibration_c4.txt" --calibration-format lines \
    --samples 128 --sequence-length 512 --overwrite --report "$work/report.json" "${words[@]}" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
  "$gptq" perplexity "$work/out" --text "$shared/text/wikitext2_raw_test.txt" --max-tokens 100000 --reference "$model" \
    --json >"$work/perplexity.json" 2>/dev/null
  python3 - "$name" "$work/perplexity.json" "$work/report.json" <<'PY'
import json, sys
p, r = json.load(open(sys.argv[2])), json.load(open(sys.argv[3]))
print(f"{sys.argv[1]:36s} {p['kl']:10.6f} {p['top1']:8.4f} {p['perplexity']:10.3f} {r['seconds']['total']:8.1f}", flush=True)
PY
done
