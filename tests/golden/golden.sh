#!/usr/bin/env bash
# The bytes of every file that `gptq quantize` writes, setting by setting, against recorded SHA-256 sums.
#   golden.sh check  <app> <fingerprint> [regex of settings]   exit code 77 where nothing is recorded for this machine
#   golden.sh record <app> <fingerprint> [regex of settings]   writes the sums of those settings anew
# <fingerprint>: the line that tells apart machines whose float sums round differently, or a program that prints it. Sums are in
# hashes/*.txt, each file headed by its fingerprint. Environment: GPTQ_SHARED, for models that are not bundled (default:
# ../shared); GPTQ_GOLDEN_OPTIONS, options for every setting (default: --threads 1); GPTQ_GOLDEN_IDS, token ids to calibrate
# the bundled model on instead of its text.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
shared=${GPTQ_SHARED:-$root/../shared}
[ $# -ge 3 ] || { sed -n 3,4p "$0" | cut -c 3- >&2; exit 2; }
verb=$1 app=$(realpath "$2") fingerprint=$3 filter=${4:-.}
[ ! -x "$fingerprint" ] || fingerprint=$("$fingerprint")
read -ra extra <<<"${GPTQ_GOLDEN_OPTIONS:---threads 1}"

hashes=$(grep -lxF "# $fingerprint" "$here"/hashes/*.txt 2>/dev/null | head -n 1 || true)
if [ "$verb" = check ] && [ -z "$hashes" ]; then
  echo "skipped: no sums are recorded for this machine and compiler:"
  echo "  $fingerprint"
  echo "there are some for:"
  sed -ns '1s/^# /  /p' "$here"/hashes/*.txt
  exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missing=""
while read -r name model options; do
  case $name in '' | '#'*) continue ;; esac
  [[ $name =~ $filter ]] || continue
  read -ra options <<<"$options"
  folder=$root/examples/models/$model
  if [ -d "$folder" ]; then
    calibration=(--calibration "${GPTQ_GOLDEN_IDS:-$folder/calibration.txt}" --samples 16)
  else
    folder=$shared/models/$model
    calibration=(--calibration "$shared/text/calibration_c4.txt" --samples 32)
    [ -d "$folder" ] || { missing=$folder; continue; }
  fi
  echo "$name" >>"$work/names"
  if ! "$app" quantize "$folder" "$work/out" "${calibration[@]}" --sequence-length 256 "${extra[@]}" "${options[@]}" >"$work/log" 2>&1; then
    echo "$name: gptq quantize failed:" && tail -n 3 "$work/log"
  fi
  (cd "$work/out" 2>/dev/null && sha256sum -- * | awk -v name="$name" '{ print name, $2, $1 }') >>"$work/got" || true
  rm -rf "$work/out"
done <"$here/settings.txt"
if [ ! -s "$work/names" ]; then
  echo "skipped: ${missing:-no setting of that name} is not there"
  exit 77
fi

# Lines of the recorded sums that are, or are not (-v), of settings that were run.
of_those() { awk -v invert="${1:-}" 'NR == FNR { ran[$1]; next } /^[^#]/ && (($1 in ran) != (invert == "-v"))' "$work/names" "$hashes" | sort; }
if [ "$verb" = record ]; then
  if [ -z "$hashes" ]; then
    hashes=$here/hashes/$(tr -c 'a-zA-Z0-9.\n' '-' <<<"$fingerprint" | sed 's/compiler-/g++-/; s/--*/-/g' | cut -c -60).txt
    printf '# %s\n' "$fingerprint" >"$hashes"
  fi
  { head -n 1 "$hashes"; { of_those -v; cat "$work/got"; } | sort; } >"$work/new"
  mv "$work/new" "$hashes"
  echo "$(wc -l <"$work/got") sums of $(wc -l <"$work/names") settings recorded in $hashes"
  exit
fi
sort "$work/got" >"$work/sorted"
if ! diff <(of_those) "$work/sorted" >"$work/diff"; then
  echo "Files differ from what is recorded in $hashes (<: recorded, >: now):"
  cut -c -80 "$work/diff" | grep '^[<>]'
  echo "If that is meant, say so in CHANGELOG.md and record them anew: tests/golden/record.sh"
  exit 1
fi
echo "$(wc -l <"$work/got") files of $(wc -l <"$work/names") settings are as recorded${missing:+; left out for want of $missing}"
