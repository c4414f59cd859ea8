#!/usr/bin/env bash
# How long a file that includes a header of smooseg takes to compile, beside one that includes what this header needs of
# LibTorch: each header of LibTorch that it, or a header of smooseg below it, names. Both are compiled in turn, and the
# medians compared.
#
#   benchmarks/compile_time.sh [HEADER [RUNS [LIMIT]]]    default: smooseg/loss.hpp 5; fails if the ratio is above LIMIT
#
# CXX chooses the compiler, SMOOSEG_LIBTORCH the LibTorch (see cmake/setup.sh), CXXFLAGS replaces -O3.
set -euo pipefail
cd "$(dirname "$0")/.."
header=${1:-smooseg/loss.hpp} runs=${2:-5} limit=${3:-}
compiler=${CXX:-c++}

found=$(cmake -D SMOOSEG_LIBTORCH="${SMOOSEG_LIBTORCH:-}" -D SMOOSEG_VENV="${SMOOSEG_VENV:-}" -P cmake/SmoosegTorch.cmake)
torch=${found#*:}
[ -n "$torch" ] || { echo "compile_time.sh: no LibTorch found; run cmake/setup.sh" >&2; exit 1; }
standard=17
if grep -q 'C++20 or later' "$torch/include/ATen/ATen.h"; then standard=20; fi
read -ra flags <<<"-std=c++$standard ${CXXFLAGS:--O3}"
flags+=(-I include -isystem "$torch/include/torch/csrc/api/include" -isystem /usr/include/eigen3)
if [ "$torch" != /usr ]; then flags+=(-isystem "$torch/include"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "#include \"$header\"" >"$folder/with.cpp"
mapfile -t own < <("$compiler" "${flags[@]}" -MM "$folder/with.cpp" | tr ' ' '\n' | grep '^include/smooseg/')
grep -hoE '^#include <(torch|ATen|c10)/[^>]*>' "${own[@]}" | sort -u >"$folder/without.cpp"
[ -s "$folder/without.cpp" ] || { echo "compile_time.sh: $header needs nothing of LibTorch" >&2; exit 1; }
echo "$header: ${#own[@]} headers of smooseg, which name $(wc -l <"$folder/without.cpp") of LibTorch"
echo "$("$compiler" --version | head -1), LibTorch in $torch, ${flags[*]:0:2}"

TIMEFORMAT=%U
for ((run = 0; run < runs; ++run)); do
  for which in without with; do
    { time "$compiler" "${flags[@]}" -c "$folder/$which.cpp" -o "$folder/object.o"; } 2>>"$folder/$which"
  done
done
median() { sort -n "$1" | awk '{s[NR] = $1} END {print (s[int((NR + 1) / 2)] + s[int((NR + 2) / 2)]) / 2}'; }
awk -v without="$(median "$folder/without")" -v with="$(median "$folder/with")" -v limit="$limit" 'BEGIN {
  ratio = with / without
  printf "LibTorch alone %.2f s, with smooseg %.2f s of the processor: %.3f times\n", without, with, ratio
  exit limit != "" && ratio > limit + 0
}'
