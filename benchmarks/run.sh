#!/usr/bin/env bash
# Builds and runs the benchmarks, each form beside its textbook form, and prints their ratios.
#
#   benchmarks/run.sh [NAME...] [-- OPTION...]
#
# NAME: energy, smoothness, ... (default: all); OPTION goes to each program, such as --device=cuda or
# --benchmark_repetitions=5 (the medians then count). SMOOSEG_LIBTORCH chooses the LibTorch (see cmake/setup.sh). What was
# measured is written as JSON into build/<which LibTorch>/benchmarks/.
set -euo pipefail
cd "$(dirname "$0")/.."

names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  [ -e "benchmarks/bench_$1.cpp" ] || { echo "benchmarks/run.sh: no benchmark named $1" >&2; exit 2; }
  names+=("$1")
  shift
done
[ $# -eq 0 ] || shift
if [ ${#names[@]} -eq 0 ]; then
  for source in benchmarks/bench_*.cpp; do
    name=${source##*/bench_}
    names+=("${name%.cpp}")
  done
fi
command -v python3 >/dev/null || { echo "benchmarks/run.sh: the table needs python3" >&2; exit 1; }

cmake/build.sh "${names[@]/#/bench_}"
. cmake/setup.sh
results=$SMOOSEG_BUILD_DIR/benchmarks
mkdir -p "$results"
for name in "${names[@]}"; do
  "$SMOOSEG_BUILD_DIR/bin/bench_$name" --benchmark_out="$results/$name.json.part" --benchmark_out_format=json "$@"
  mv "$results/$name.json.part" "$results/$name.json"
done
python3 benchmarks/report.py table "${names[@]/#/$results/}"
