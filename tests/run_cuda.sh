#!/usr/bin/env bash
# On a machine with a GPU, in ten minutes: configures, builds, tests and measures the CUDA backend; ends with a table.
#   tests/run_cuda.sh [step...]     steps, all of them if none is named:
#     test combinations golden sanitize stages kl four peer many
# test      the GPU tests                          sanitize  compute-sanitizer over the tests of components
# combinations   every spec that is allowed, on the bundled model
# golden    files of the bundled model, byte for byte, against tests/golden/hashes; GPTQ_GOLDEN=record writes those anew
# stages    the benchmark of one block's stages    kl        a small model quantized here, judged against its float form
# four      4 blocks in the shape of Qwen2-7B      peer      GPTQModel on the same folder
# many      28 such blocks, with and without a budget of device memory
# Environment: GPTQ_BUILD_DIR (build/cuda), GPTQ_CUDA_ARCH (90), CMAKE_PREFIX_PATH for libraries that are not in the system,
# GPTQ_LOG_DIR (where logs and reports go; $GPTQ_BUILD_DIR/logs),
# GPTQ_SLICES=<make_slice.py>: writes the models for four, peer and many; GPTQ_WORK (/tmp): where, 20 GB,
# GPTQ_PEER_PYTHON, GPTQ_PEER=<peer_slice.py>: a Python with gptqmodel, and what times it, for peer,
# GPTQ_KL_MODEL, GPTQ_KL_CALIBRATION, GPTQ_KL_IDS, GPTQ_KL_HOST: model folder, calibration and evaluation ids, and, if there,
# the checkpoint that the host made of them, for kl,
# GPTQ_GOLDEN_IDS: calibration ids for golden where the app was built without tokenizers (golden_ids, below, makes them). A step that lacks what it needs says so.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
steps=" ${*:-test combinations golden stages kl four peer many sanitize} "
build=${GPTQ_BUILD_DIR:-build/cuda}
logs=${GPTQ_LOG_DIR:-$build/logs}
work=${GPTQ_WORK:-/tmp}/gptq-cuda
mkdir -p "$logs" "$work"
table=$logs/table.txt
: >"$table"
status=0
begin=$SECONDS

wants() { [[ $steps == *" $1 "* ]]; }
row() { printf '%-52s %s\n' "$1" "$2" | tee -a "$table"; }
# step <seconds> <name> <command...>: output goes to a log of that name, its end to the terminal.
step() {
  local limit=$1 name=$2 from=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1 || code=$?
  tail -n "${tail_lines:-6}" "$logs/$name.log"
  [ $code = 0 ] || [ $code = 77 ] || { row "$name" "FAILED ($code) after $((SECONDS - from)) s"; status=1; }
  return $code
}
# field <report.json> <python expression of r>
field() { python3 -c 'import json,sys; r=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2" 2>/dev/null || echo "?"; }

# Models are written while the build runs.
making=""
if [ -n "${GPTQ_SLICES:-}" ] && { wants four || wants peer || wants many; }; then
  (
    python3 "$GPTQ_SLICES" "$work/slice4" 4
    wants many && python3 "$GPTQ_SLICES" "$work/slice28" 28
    python3 -c '
import json, random
random.seed(7)
with open("'"$work"'/ids.jsonl", "w") as f:
  for _ in range(128): f.write(json.dumps({"input_ids": [random.randrange(2, 8192) for _ in range(2048)]}) + "\n")'
  ) >"$logs/slices.log" 2>&1 &
  making=$!
fi

row "GPU, driver, memory" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo none)"
row "CUDA" "$(nvcc --version | sed -n 's/.*release \([^,]*\), V\(.*\)/\1 (\2)/p')"
row "commit" "$(cat COMMIT 2>/dev/null || git rev-parse --short HEAD 2>/dev/null || echo unknown)"
step 120 configure cmake -S . -B "$build" -G Ninja -D CMAKE_BUILD_TYPE=Release -D CMAKE_CUDA_ARCHITECTURES="${GPTQ_CUDA_ARCH:-90}" \
  -D GPTQ_CUDA=ON -D GPTQ_BUILD_BENCHMARKS=ON -D GPTQ_INSTALL=OFF || exit 1
targets=(gptq_app)
{ wants test || wants combinations || wants sanitize; } && targets+=(test_cuda)
wants stages && targets+=(bench_cuda_stages)
step 400 build cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]}" || exit 1
row "build" "$((SECONDS - begin)) s"
app=$build/gptq

if wants test; then
  step 240 test "$build/tests/test_cuda" '~[combinations]' && row "GPU tests" "$(tail -n 2 "$logs/test.log" | tr '\n' ' ')"
fi
if wants combinations; then
  step 200 combinations "$build/tests/test_cuda" '[combinations]' &&
    row "every combination of options" "$(tail -n 2 "$logs/combinations.log" | tr '\n' ' ')"
fi
# The bundled model's calibration text as token ids, in windows of 256.
golden_ids() {
  "$app" tokenize examples/models/bard-qwen2-1m --text examples/models/bard-qwen2-1m/calibration.txt --json | tr -dc '0-9,' | tr ',' '\n' |
    awk '{ line = line (n++ ? "," : "") $1 } n == 256 { print "{\"input_ids\": [" line "]}"; line = ""; n = 0 }'
}
if wants golden; then
  [ -n "${GPTQ_GOLDEN_IDS:-}" ] || golden_ids >"$work/golden.jsonl" 2>"$logs/golden_ids.log"
  export GPTQ_GOLDEN_IDS=${GPTQ_GOLDEN_IDS:-$work/golden.jsonl}
  if [ -s "$GPTQ_GOLDEN_IDS" ]; then
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
    cuda=$(nvcc --version | sed -n 's/.*release \([^,]*\),.*/\1/p')
    GPTQ_GOLDEN_OPTIONS="--device cuda --threads 1" \
      step 120 golden bash tests/golden/golden.sh "${GPTQ_GOLDEN:-check}" "$app" "$device, CUDA $cuda, token ids" '^bard-'
    row "golden" "$(tail -n 1 "$logs/golden.log")"
  else
    row "golden" "skipped: the app has no tokenizers, and GPTQ_GOLDEN_IDS is not set"
  fi
fi
if wants stages; then
  tail_lines=40 step 120 stages "$build/bench/bench_cuda_stages"
fi

if wants kl; then
  if [ -n "${GPTQ_KL_MODEL:-}" ] && [ -n "${GPTQ_KL_IDS:-}" ]; then
    judge() { "$app" perplexity "$1" --ids "$GPTQ_KL_IDS" --reference "$GPTQ_KL_MODEL" --device cuda --json; }
    rm -rf "$work/kl"
    step 60 kl_quantize "$app" quantize "$GPTQ_KL_MODEL" "$work/kl" --calibration "$GPTQ_KL_CALIBRATION" --calibration-format ids \
      --sequence-length 512 --device cuda --report "$logs/kl_quantize.json" &&
      judge "$work/kl" >"$logs/kl_device.json" 2>"$logs/kl_device.log" &&
      row "KL of the device's checkpoint" "$(field "$logs/kl_device.json" '"%.6f, perplexity %.4f" % (r["kl"], r["perplexity"])')"
    if [ -n "${GPTQ_KL_HOST:-}" ]; then
      judge "$GPTQ_KL_HOST" >"$logs/kl_host.json" 2>"$logs/kl_host.log" &&
        row "KL of the host's checkpoint" "$(field "$logs/kl_host.json" '"%.6f, perplexity %.4f" % (r["kl"], r["perplexity"])')"
    fi
  else
    row "kl" "skipped: GPTQ_KL_MODEL, GPTQ_KL_CALIBRATION, GPTQ_KL_IDS are not set"
  fi
fi

[ -n "$making" ] && wait "$making"
# run_model <name> <folder> <options...>
run_model() {
  local name=$1 folder=$2
  shift 2
  rm -rf "$work/out"
  local from
  from=$(date +%s%N)
  step 120 "$name" "$app" quantize "$folder" "$work/out" --calibration "$work/ids.jsonl" --calibration-format ids --sequence-length 2048 \
    --device cuda --report "$logs/$name.json" "$@" || return 1
  from=$((($(date +%s%N) - from) / 1000000))
  row "$name" "process $from ms, $(field "$logs/$name.json" '"%.2f s in it, device memory %.2f GiB (matrices %.2f), chunks of %d%s" % (r["seconds"]["total"],
    r["device"]["peak_memory_bytes"] / 2**30, r["device"]["peak_matrices_bytes"] / 2**30, r["device"]["chunk_tokens"],
    ", states on host" if r["device"]["states_on_host"] else "")')"
}
plain=(--order natural --mse 0)
if wants four; then
  if [ -f "$work/slice4/config.json" ]; then
    run_model four_plain_first "$work/slice4" "${plain[@]}"
    run_model four_plain "$work/slice4" "${plain[@]}"
    run_model four_default_first "$work/slice4"
    run_model four_default "$work/slice4"
    run_model four_best "$work/slice4" --preset best
    run_model four_lm_head "$work/slice4" --lm-head
    run_model four_lm_head_6GiB "$work/slice4" --lm-head --device-memory 6GiB
  else
    row "four" "skipped: no model (GPTQ_SLICES)"
  fi
fi
if wants peer; then
  if [ -f "$work/slice4/config.json" ] && [ -n "${GPTQ_PEER_PYTHON:-}" ] && [ -n "${GPTQ_PEER:-}" ]; then
    for run in first second; do
      step 150 "peer_$run" "$GPTQ_PEER_PYTHON" "$GPTQ_PEER" "$work/slice4" "$work/peer-$run" || break
      grep -o '{"load_s.*}' "$logs/peer_$run.log" >"$logs/peer_$run.json"
      row "GPTQModel, 4 blocks, $run run" "$(field "$logs/peer_$run.json" '"%.2f s (load %.2f, quantize %.2f, save %.2f)" % (
        r["load_s"] + r["quantize_s"] + r["save_s"], r["load_s"], r["quantize_s"], r["save_s"])')"
      rm -rf "$work/peer-$run"
    done
  else
    row "peer" "skipped: GPTQ_PEER_PYTHON, GPTQ_PEER or the model are not there"
  fi
fi
if wants many; then
  if [ -f "$work/slice28/config.json" ]; then
    run_model many_plain "$work/slice28" "${plain[@]}"
    run_model many_plain_10GiB "$work/slice28" "${plain[@]}" --device-memory 10GiB
    run_model many_plain_6GiB "$work/slice28" "${plain[@]}" --device-memory 6GiB
  else
    row "many" "skipped: no model (GPTQ_SLICES)"
  fi
fi
rm -rf "$work/out" "$work/kl"

if wants sanitize; then
  # Of our kernels: those of the libraries take most of the time. Where the tool itself fails at that (racecheck 2025.3 does beside
  # cuBLAS's products of 16-bit types), all kernels. A process for each case: after such an error nothing else in it works.
  names=$("$build/tests/test_cuda" --list-tests --verbosity quiet '[component]' | grep '^cuda' || true)
  [ -n "$names" ] || { row "sanitize" "FAILED: no tests of components"; status=1; }
  for tool in memcheck racecheck; do
    : >"$logs/$tool.log"
    clean=0 cases=0
    while IFS= read -r name; do
      [ -n "$name" ] || continue
      cases=$((cases + 1))
      for filter in "--kernel-name kns=gptq" ""; do
        timeout 100 compute-sanitizer --tool $tool --error-exitcode 1 $filter "$build/tests/test_cuda" "${name//,/\\,}" \
          </dev/null >"$logs/$tool.case" 2>&1 && clean=$((clean + 1)) && break
        grep -q 'Internal Sanitizer Error' "$logs/$tool.case" && [ -n "$filter" ] && continue
        { echo "$tool: $name, not clean or over 100 s"; grep -m 3 -iE 'error|hazard' "$logs/$tool.case"; } | tee -a "$table"
        status=1
        break
      done
      cat "$logs/$tool.case" >>"$logs/$tool.log"
    done <<<"$names"
    row "$tool" "$clean of $cases cases clean"
  done
fi

printf '\n'
cat "$table"
echo "$([ $status = 0 ] && echo "all steps passed" || echo "SOME STEPS FAILED"), $((SECONDS - begin)) s in all"
exit $status
