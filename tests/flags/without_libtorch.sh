#!/usr/bin/env bash
# The headers of smooseg::eigen, and examples/embedded.cpp, include nothing of LibTorch, directly or not. Checks first that
# it finds what includes LibTorch.
#
#   tests/flags/without_libtorch.sh COMPILER -I...
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

# The LibTorch headers that a source brings, one a line.
of_libtorch() {
  "$@" -std=c++17 -M -MG -x c++ - | tr ' ' '\n' | grep -E '(^|/)(torch|ATen|c10)/' || true
}

[ -n "$(of_libtorch "$@" <<<'#include "smooseg/io/safetensors.hpp"')" ] || { echo "LibTorch is not found where it is"; exit 1; }
# The headers as docs/library.md lists them.
headers=$(sed -n '/^| `smooseg::eigen`/p' "$root/docs/library.md" | grep -oE '[a-z_/*]+\.hpp' | sort -u)
[ "$(wc -w <<<"$headers")" -ge 5 ] || { echo "docs/library.md lists no headers of smooseg::eigen"; exit 1; }
found=$(for header in $headers; do echo "#include \"smooseg/$header\""; done | of_libtorch "$@")
found+=$(of_libtorch "$@" <"$root/examples/embedded.cpp")
[ -z "$found" ] || { printf 'smooseg::eigen includes of LibTorch:\n%s\n' "$found"; exit 1; }
echo "without LibTorch:" $headers
