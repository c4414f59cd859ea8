#!/usr/bin/env bash
# Fuzzes the readers of files with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer; ends at the first input that
# a reader crashes on, hangs on or takes too much memory for, and says where it is.
#
#   tests/fuzz/run.sh [SECONDS [READER...]]      default: 60 seconds for each of zip, legacy, pickle, safetensors, json
#
# Needs Clang and its runtime libraries, which are installed with apt where they are missing. What was found to reach new
# code is kept in build/fuzz/corpus. An input that led to a fix belongs in tests/fuzz/seeds; the tests read all of them.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
if [ $# -gt 0 ]; then shift; fi
readers=("$@")
if [ ${#readers[@]} -eq 0 ]; then readers=(zip legacy pickle safetensors json); fi

install() {
  local as_root=()
  if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}
command -v clang++ >/dev/null || install clang
runtime=$(clang++ -print-file-name="libclang_rt.fuzzer-$(uname -m).a")
[ -e "$runtime" ] || install "libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"

. cmake/setup.sh
build=build/fuzz
cmake -S . -B $build -DCMAKE_CXX_COMPILER=clang++ -DSMOOSEG_BUILD_TESTS=ON -DSMOOSEG_FUZZ=ON \
  -DSMOOSEG_LIBTORCH="$SMOOSEG_LIBTORCH" -DSMOOSEG_VENV="$SMOOSEG_VENV"
cmake --build $build --target fuzz_readers

export ASAN_OPTIONS=protect_shadow_gap=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
for reader in "${readers[@]}"; do
  echo "=== $reader, $seconds s"
  seeds=tests/fuzz/seeds/$reader
  corpus=$build/corpus/$reader
  [ -d "$seeds" ] || { echo "tests/fuzz/run.sh: no reader named $reader" >&2; exit 2; }
  mkdir -p "$corpus"
  "$build/bin/fuzz_readers" --reader="$reader" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 \
    -max_len=20000 -dict=tests/fuzz/words.dict -artifact_prefix="$build/$reader-" -verbosity=0 -print_final_stats=1 \
    "$corpus" "$seeds"
done
