#!/usr/bin/env bash
# Installs what is missing on Debian 12, Ubuntu 24.04 or later: cmake/install_packages.sh [build] [test] [bench]
# As root by apt-get, else with sudo, else it prints the list and fails. GPTQ_SKIP_INSTALL=1 skips all of it.
set -euo pipefail

# Tools are looked for by command, so that one installed some other way is used; libraries by package.
tools=(cmake:cmake c++:g++ ninja:ninja-build pkg-config:pkg-config)
libraries=()
for need in "${@:-build}"; do
  case $need in
    build) libraries+=(libeigen3-dev nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev
                        libsentencepiece-dev) ;;
    test) libraries+=(catch2) tools+=(python3:python3) ;;
    bench) libraries+=(libbenchmark-dev) ;;
    *) echo "install_packages.sh: '$need' is none of build, test, bench" >&2; exit 2 ;;
  esac
done

[ "${GPTQ_SKIP_INSTALL:-0}" = 1 ] && exit 0

missing=()
for tool in "${tools[@]}"; do
  command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if command -v dpkg-query >/dev/null; then
  for package in "${libraries[@]}"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
else
  missing+=("${libraries[@]}")
fi
[ ${#missing[@]} -eq 0 ] && exit 0

give_up() {
  echo "$1 Install these packages (names of Debian 12 and Ubuntu 24.04), then run again" >&2
  echo "(GPTQ_SKIP_INSTALL=1 where you have them under other names):" >&2
  echo "  ${missing[*]}" >&2
  exit 1
}
command -v apt-get >/dev/null || give_up "There is no apt-get here."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || give_up "You are not root, and there is no sudo."
  as_root=(sudo)
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }; }
run update || echo "apt-get update failed; trying with the package lists that are here" >&2
run install -y --no-install-recommends "${missing[@]}" || give_up "apt-get could not install them."
