#!/usr/bin/env bash
# Whether other readers load what gptq writes, and compute the same: tests/interop/run.sh [folder for environments]
# Not part of CI: it installs some 15 GB of Python packages (GPTQModel and vLLM, each in an environment of its own).
# Environment: GPTQ_BUILD_DIR (default build/release), GPTQ_SHARED (default ../shared), GPTQMODEL_PYTHON and VLLM_PYTHON
# (interpreters to use instead of new environments), MODELS (default: the bundled one and web-qwen2-22m).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${GPTQ_BUILD_DIR:-build/release}
shared=${GPTQ_SHARED:-../shared}
environments=${1:-build/interop}
bundled=examples/models/bard-qwen2-1m
read -ra models <<<"${MODELS:-$bundled $shared/models/web-qwen2-22m}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -f "$build/CMakeCache.txt" ] || { echo "no build in $build: run tests/run.sh" >&2; exit 1; }
cmake --build "$build" --target gptq_app interop_logits >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
gptq=$build/gptq

environment() {  # name, packages: prints the interpreter
  local python=$environments/$1/bin/python
  if [ ! -x "$python" ]; then
    python3 -m venv "$environments/$1" >&2
    "$environments/$1/bin/pip" install --quiet torch transformers accelerate tokenizers safetensors setuptools wheel >&2
    BUILD_CUDA_EXT=0 "$environments/$1/bin/pip" install --quiet --no-build-isolation "${@:2}" >&2
  fi
  echo "$python"
}
gptqmodel=${GPTQMODEL_PYTHON:-$(environment gptqmodel gptqmodel==7.7.0)}
vllm=${VLLM_PYTHON:-$(environment vllm vllm==0.32.0)}
failed=0

# name | options | what vLLM makes of it
settings=(
  "w4g128|--bits 4|takes"
  "w8g128|--bits 8|takes"
  "w3g128|--bits 3|refuses"
  "w4g32-desc_act|--bits 4 --group-size 32 --order desc_act|refuses"
  "w4g128-partial|--bits 4 --skip .*layers\.0\.self_attn\. --skip .*layers\.1\.mlp\.(gate|up) --bits-for .*down_proj=8|takes"
  "w4g128-asym-v2|--bits 4 --no-sym|refuses"
)
quantize() {  # model, output, options
  "$gptq" quantize "$1" "$2" --calibration "$bundled/evaluation.txt" --calibration-format windows --samples 8 \
    --sequence-length 512 "${@:3}" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}
said=()  # folder|what the rules say of vLLM
for model in "${models[@]}"; do
  name=$(basename "$model")
  "$gptq" tokenize "$model" --text "$bundled/calibration.txt" >"$work/text"
  tr ' ' '\n' <"$work/text" >"$work/lines"
  head -n 128 "$work/lines" >"$work/ids"
  vocabulary=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["vocab_size"])' "$model/config.json")
  arguments=()
  for row in "${settings[@]}"; do
    IFS='|' read -r setting options expected <<<"${row/(gate|up)/(gate#up)}"
    read -ra words <<<"${options/\#/|}"
    folder=$work/$name-$setting
    quantize "$model" "$folder" "${words[@]}"
    "$build/tests/interop/interop_logits" "$folder" "$work/ids" "$folder.logits"
    arguments+=("$folder" "$folder.logits")
    said+=("$folder|$expected")
  done
  quantize "$model" "$work/$name-w4g128-asym-compressed" --no-sym --format compressed-tensors
  said+=("$work/$name-w4g128-asym-compressed|takes")
  printf '\n**GPTQModel %s, torch kernel, %s** (logits of 128 tokens; difference relative to their spread)\n\n' \
    "$("$gptqmodel" -c 'from importlib.metadata import version as v; print(v("gptqmodel"), "with transformers", v("transformers"))')" "$name"
  printf '| folder | kernels | difference | same most likely token |\n|---|---|---|---|\n'
  "$gptqmodel" tests/interop/peer_logits.py "$vocabulary" "$work/ids" "${arguments[@]}" 2>"$work/peer.log" | grep '^|' ||
    failed=1
done

# TeleChat2 is published with code of its own, of which vLLM reads the configuration.
telechat=$shared/models/web-telechat2-9m
if [ -f "$telechat/config.json" ]; then
  cp -r "$telechat" "$work/telechat2"
  cat >"$work/telechat2/configuration_telechat2.py" <<'PY'
from transformers import PretrainedConfig


class Telechat2Config(PretrainedConfig):
    model_type = "telechat"
    attribute_map = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
                     "intermediate_size": "ffn_hidden_size", "rms_norm_eps": "layer_norm_epsilon"}
    hidden_act = "silu"
PY
  for row in "partial||takes" "all-layers|--all-layers|refuses" "as-llama|--as llama|takes"; do
    IFS='|' read -r setting options expected <<<"$row"
    read -ra words <<<"$options"
    quantize "$work/telechat2" "$work/telechat2-w4g128-$setting" "${words[@]}"
    said+=("$work/telechat2-w4g128-$setting|$expected")
  done
  folder=$work/telechat2-w4g128-as-llama
  "$gptq" tokenize "$telechat" --text "$bundled/calibration.txt" | tr ' ' '\n' >"$work/lines"
  head -n 128 "$work/lines" >"$work/ids"
  "$build/tests/interop/interop_logits" "$folder" "$work/ids" "$folder.logits"
  printf '\n| folder | kernels | difference | same most likely token |\n|---|---|---|---|\n'
  "$gptqmodel" tests/interop/peer_logits.py 8192 "$work/ids" "$folder" "$folder.logits" 2>"$work/peer.log" | grep '^|' || failed=1
else
  echo "skipped, missing $telechat: TeleChat2"
fi

check=$shared/yardstick/vllm_check.py
if [ ! -f "$check" ]; then
  echo "skipped, missing $check: vLLM"
  exit "$failed"
fi
printf '\n**vLLM %s** (its own config, model and loader code on a CPU, a device of capability 9.0 assumed)\n\n' \
  "$("$vllm" -c 'from importlib.metadata import version as v; print(v("vllm"))')"
printf '| folder | `inspect --engine vllm` | vLLM |\n|---|---|---|\n'
for entry in "${said[@]}"; do
  IFS='|' read -r folder expected <<<"$entry"
  rules=takes
  "$gptq" inspect "$folder" --engine vllm >"$work/inspect" 2>&1 || rules=refuses
  result=takes
  "$vllm" "$check" --trust-remote-code "$folder" >"$work/vllm" 2>&1 || result=refuses
  why=$(grep -oE 'vllm: (refused|wrong numbers): V[0-9]+' "$work/inspect" | head -n 1 | grep -oE 'V[0-9]+' || true)
  note=$(tail -n 1 "$work/vllm" | python3 -c '
import json, re, sys
errors = json.loads(sys.stdin.readline() or "{}").get("errors") or [""]
text = re.sub(r".*Value error, ", "", errors[0].replace("\n", " "))
print(re.sub(r" \[type=.*", "", text)[:140].replace("|", "/"))' || true)
  verdict=""
  if [ "$rules" != "$result" ] || [ "$rules" != "$expected" ]; then verdict=" DISAGREE" failed=1; fi
  echo "| $(basename "$folder") | $rules $why | $result $note |$verdict"
done
exit "$failed"
