#!/usr/bin/env bash
# The compiler's command line in docs/library.md for those who do without CMake: word for word, but for -O0, which is
# faster to compile.
#
#   tests/flags/documented.sh COMPILER debian|pypi|eigen PYTHON
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$root" "$folder/smooseg"
example=minimal_loss arguments=()
if [ "$2" = eigen ]; then example=embedded arguments=("$root/tests/data/embedded_model.safetensors"); fi
cp "$root/examples/$example.cpp" "$folder/program.cpp"

# One block for each LibTorch, of which Python's is the one that asks Python, and one that links none.
awk -v wanted="$2" '
  function kind() { return block ~ /python3/ ? "pypi" : block ~ /torch/ ? "debian" : "eigen" }
  /^```bash/ {block = ""; inside = 1; next}
  /^```/ && inside {inside = 0; if (block ~ /g\+\+/ && kind() == wanted) printf "%s", block}
  inside {block = block $0 "\n"}' "$root/docs/library.md" >"$folder/command"
sed -i -e "s|^g++ |$1 |" -e 's/-O3/-O0/' "$folder/command"
cat "$folder/command"
grep -q 'program.cpp -o program' "$folder/command"

cd "$folder"
PATH=$(dirname "$3"):$PATH bash -euo pipefail command
./program "${arguments[@]}"
