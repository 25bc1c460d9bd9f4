#!/usr/bin/env bash
# The accuracy table: quantizes a model with many settings and prints the divergence from the float model, top-1 and
# perplexity on held-out text.
#   tests/accuracy.sh [row …]        rows by name (list shows them); default: w4g128 w3g128 w2g64 w8g128
#   tests/accuracy.sh list | table   the rows there are; the means of what OUT holds
#   tests/accuracy.sh ids <folder>   writes the texts as token ids, for IDS on a machine whose app has no tokenizers
# Environment:
#   APP      the app (build/release/gptq)            ROUNDING  the program of preset rounding (beside the app)
#   MODEL    a folder, or one of shared/models (web-qwen2-22m)
#   PRESETS  default, best, parity, rounding ("default best")
#   SETS     disjoint parts of the calibration text ("1 2 3")
#   OPTIONS  more options for every row, say --all-layers or --as llama
#   OUT      where results are added (build/accuracy.tsv); what it holds already is not done again
#   IDS      a folder of `accuracy.sh ids`           JUDGE     a Python with torch and transformers: judge.py reads too
#   PREFIX   a command to put before each run        GPTQ_SHARED  (../shared)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
app=${APP:-build/release/gptq}
rounding=${ROUNDING:-$(dirname "$app")/tests/accuracy/accuracy_rounding}
shared=${GPTQ_SHARED:-../shared}
model=${MODEL:-web-qwen2-22m}
[ -d "$model" ] || model=$shared/models/$model
out=${OUT:-build/accuracy.tsv}
read -ra presets <<<"${PRESETS:-default best}"
read -ra sets <<<"${SETS:-1 2 3}"
read -ra more <<<"${OPTIONS:-}"
read -ra prefix <<<"${PREFIX:-}"

# name|options. The rows with a damping are GPTQModel's settings.
rows=(
  "w4g128|--bits 4"
  "w3g128|--bits 3"
  "w2g64|--bits 2 --group-size 64"
  "w8g128|--bits 8"
  "w4g128-asym|--bits 4 --no-sym"
  "w2g64-asym|--bits 2 --group-size 64 --no-sym"
  "w4g128-natural-minmax|--bits 4 --order natural --mse 0 --damp-percent 0.05"
  "w4g128-minmax|--bits 4 --mse 0 --damp-percent 0.05"
  "w4g128-mse|--bits 4 --damp-percent 0.05"
  "w4g128-desc_act-minmax|--bits 4 --order desc_act --mse 0 --damp-percent 0.05"
  "w4g32-minmax|--bits 4 --group-size 32 --mse 0 --damp-percent 0.05"
  "w4g-1-natural-minmax|--bits 4 --group-size -1 --order natural --mse 0 --damp-percent 0.05"
  "w4g128-asym-minmax|--bits 4 --no-sym --mse 0 --damp-percent 0.05"
  "w3g128-minmax|--bits 3 --mse 0 --damp-percent 0.05"
  "w3g128-mse|--bits 3 --damp-percent 0.05"
  "w3g128-desc_act-mse|--bits 3 --order desc_act --damp-percent 0.05"
  "w2g64-mse|--bits 2 --group-size 64 --damp-percent 0.05"
  "w2g64-asym-minmax|--bits 2 --group-size 64 --no-sym --mse 0 --damp-percent 0.05"
  "w2g64-asym-mse|--bits 2 --group-size 64 --no-sym --damp-percent 0.05"
  "w8g128-minmax|--bits 8 --mse 0 --damp-percent 0.05"
)

case $(basename "$model") in
bard-qwen2-1m) calibration=$model/calibration.txt evaluation=$model/evaluation.txt lines=32 ;;
*) calibration=$shared/text/calibration_c4.txt evaluation=$shared/text/wikitext2_raw_test.txt lines=128 ;;
esac
tokens=100000
name=$(basename "$model")
[ ${#more[@]} = 0 ] || name="$name ${more[*]}"

table() {
  [ -f "$out" ] || { echo "no results in $out" >&2; exit 1; }
  python3 - "$out" <<'PY'
import statistics as s, sys
rows = {}
for line in open(sys.argv[1]):
    model, row, preset, part, kl, judge, top1, ppl, seconds = line.rstrip('\n').split('\t')
    rows.setdefault((model, row, preset), {})[part] = (float(kl), judge, float(top1), float(ppl), float(seconds))
print(f"{'model, row, preset':56} {'KL':>10}  {'spread':>6} {'top-1':>7} {'perplexity':>10} {'seconds':>7}  KL of each set (judge.py)")
for key, parts in sorted(rows.items()):
    v = [parts[k] for k in sorted(parts)]
    mean = [s.mean(x[i] for x in v) for i in (0, 2, 3, 4)]
    spread = f"{100 * s.stdev(x[0] for x in v) / mean[0]:.1f} %" if len(v) > 1 else ''
    each = '  '.join(f'{x[0]:.4g}' + (f' ({float(x[1]):.4g})' if x[1] != '-' else '') for x in v)
    print(f"{' '.join(key):56} {mean[0]:10.3g}  {spread:>6} {mean[1]:7.4f} {mean[2]:10.3f} {mean[3]:7.1f}  {each}")
PY
}

# Ids of whole lines; the app cuts them as it cuts texts.
write_ids() {
  mkdir -p "$1"
  local file text
  file=$1/$(basename "$model")
  text=$(mktemp)
  head -n $((3 * lines)) "$calibration" | while IFS= read -r line; do
    printf '%s' "$line" >"$text"
    "$app" tokenize "$model" --text "$text" --add-special --json | tr -d '\n '
    echo
  done | sed 's/"ids"/"input_ids"/' >"$file-calibration.jsonl"
  "$app" tokenize "$model" --text "$evaluation" --json | tr -d '\n ' | sed 's/"ids"/"input_ids"/' >"$file-evaluation.jsonl"
  rm "$text"
  wc -l "$file-calibration.jsonl"
}

case ${1:-} in
list) printf '%s\n' "${rows[@]}" | sed 's/|/\t/'; exit ;;
table) table; exit ;;
ids) write_ids "$2"; exit ;;
esac
[ -x "$app" ] || { echo "no app at $app: run tests/run.sh, or set APP" >&2; exit 1; }
[ -d "$model" ] || { echo "no model at $model" >&2; exit 1; }
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(w4g128 w3g128 w2g64 w8g128)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$out")"
touch "$out"

quiet() { "${prefix[@]}" "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
measure() {  # row, options, preset, set
  local key options words text format scored judged=-
  key=$(printf '%s\t%s\t%s\t%s' "$name" "$1" "$3" "$4")
  if grep -qF -- "$key"$'\t' "$out"; then return; fi
  read -ra options <<<"$2"
  if [ -n "${IDS:-}" ]; then
    text=$IDS/$(basename "$model")-calibration.jsonl format=ids scored=(--ids "$IDS/$(basename "$model")-evaluation.jsonl")
  else
    text=$calibration format=lines scored=(--text "$evaluation")
  fi
  sed -n "$((($4 - 1) * lines + 1)),$(($4 * lines))p" "$text" >"$work/calibration"
  words=("$model" "$work/out" "${options[@]}" "${more[@]}" --report "$work/report.json")
  rm -rf "$work/out"
  if [ "$3" = rounding ]; then
    quiet "$rounding" "$model" "$work/out" "${options[@]}"
    echo '{"seconds": {"total": 0}}' >"$work/report.json"
  else
    quiet "$app" quantize "${words[@]}" --preset "$3" --calibration "$work/calibration" --calibration-format "$format" \
      --samples "$lines" --sequence-length 512
  fi
  "${prefix[@]}" "$app" perplexity "$work/out" "${scored[@]}" --max-tokens $tokens --reference "$model" --json \
    >"$work/perplexity.json" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  if [ -n "${JUDGE:-}" ]; then
    quiet "$JUDGE" "$shared/yardstick/judge.py" "$work/out" --text "$evaluation" --max-tokens $tokens --reference "$model" \
      --tokenizer "$model"
    judged=$(tail -n 1 "$work/log" | sed 's/.*"kl": \([^,]*\),.*/\1/')
  fi
  python3 - "$key" "$judged" "$work/perplexity.json" "$work/report.json" <<'PY' | tee -a "$out"
import json, sys
p, r = (json.load(open(file)) for file in sys.argv[3:])
print(sys.argv[1], f"{p['kl']:.9f}", sys.argv[2], f"{p['top1']:.5f}", f"{p['perplexity']:.4f}", f"{r['seconds']['total']:.1f}",
      sep='\t', flush=True)
PY
}

for row in "${wanted[@]}"; do
  found=
  for known in "${rows[@]}"; do
    [ "${known%%|*}" = "$row" ] || continue
    found=yes
    for set in "${sets[@]}"; do
      for preset in "${presets[@]}"; do measure "$row" "${known#*|}" "$preset" "$set"; done
    done
  done
  [ -n "$found" ] || { echo "no row $row: see tests/accuracy.sh list" >&2; exit 1; }
done
table
