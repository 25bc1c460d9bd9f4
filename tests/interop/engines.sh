#!/usr/bin/env bash
# The table of settings and engines, from what `gptq inspect --engine` says of folders: tests/interop/engines.sh
# Environment: APP (default: build/release/gptq), GPTQ_SHARED (default: ../shared; without it no rows for TeleChat2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
app=${APP:-build/release/gptq}
shared=${GPTQ_SHARED:-../shared}
bundled=examples/models/bard-qwen2-1m
telechat=$shared/models/web-telechat2-9m
engines=(vllm sglang transformers gptqmodel exllamav2 llama.cpp ort-genai openvino)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cell() {  # engine: the verdict, and the rules that speak against it
  local verdict rules
  "$app" inspect "$work/out" --engine "$1" >"$work/inspect" 2>&1 || true
  verdict=$(grep -oE "^$1: (refused|wrong numbers|takes it)" "$work/inspect" | sed "s/^$1: //" | sort -u | head -n 1 || true)
  rules=$(grep -oE "^$1: (refused|wrong numbers): [A-Z]+[0-9]+" "$work/inspect" | grep -oE '[A-Z]+[0-9]+$' | sort -u | tr '\n' ' ' || true)
  case $verdict in
  "takes it") printf ' yes |' ;;
  "") printf ' ? |' ;;
  *) printf ' %s %s|' "${verdict/refused/no:}" "$rules" ;;
  esac
}
row() {  # name, model, options of quantize
  rm -rf "$work/out"
  "$app" quantize "$2" "$work/out" --calibration $bundled/evaluation.txt --calibration-format windows --samples 2 \
    --sequence-length 128 "${@:3}" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  printf '| %s |' "$1"
  for engine in "${engines[@]}"; do cell "$engine"; done
  printf '\n'
}
printf '| settings |'
printf ' %s |' "${engines[@]}"
printf '\n|---|'
printf -- '---|%.0s' "${engines[@]}"
printf '\n'
row "4 bit g128" $bundled
row "8 bit g128" $bundled --bits 8
row "3 bit g128" $bundled --bits 3
row "2 bit g64" $bundled --bits 2 --group-size 64
row "4 bit, one group a row" $bundled --group-size -1
row "4 bit g32, desc_act" $bundled --group-size 32 --order desc_act
row "4 bit g128 asym (gptq_v2)" $bundled --no-sym
row "4 bit g128 asym, compressed-tensors" $bundled --no-sym --format compressed-tensors
row "4 bit g128, compressed-tensors" $bundled --format compressed-tensors
row "4 bit, attention of a block in float, down_proj 8 bit" $bundled --skip '.*layers\.0\.self_attn\.' --bits-for '.*down_proj=8'
if [ -f "$telechat/config.json" ]; then
  row "TeleChat2, 4 bit g128" "$telechat"
  row "TeleChat2, \`--all-layers\`" "$telechat" --all-layers
  row "TeleChat2, \`--as llama\`" "$telechat" --as llama
fi
