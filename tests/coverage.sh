#!/usr/bin/env bash
# Which lines of include/ the library's tests run: builds them without optimisation in build/coverage, runs them, and
# prints a table by file. Ends with an error below LEAST percent of the lines. Needs GCC and gcovr, which is installed.
#
#   tests/coverage.sh [LEAST]        default: 95
#   xdg-open build/coverage/html/index.html       afterwards: line by line
set -euo pipefail
cd "$(dirname "$0")/.."
least=${1:-95}
export SMOOSEG_LIBTORCH=${SMOOSEG_LIBTORCH:-debian}
. cmake/setup.sh
command -v gcovr >/dev/null || smooseg_install gcovr

folder=build/coverage
# Counters are atomic, for threads run together. ccache would leave out the files that go with the objects.
cmake --preset debug -B "$folder" -D SMOOSEG_LIBTORCH="$SMOOSEG_LIBTORCH" -D SMOOSEG_BUILD_EXAMPLES=OFF \
  -D SMOOSEG_BUILD_BENCHMARKS=OFF -D SMOOSEG_TEST_HEADERS=OFF -D SMOOSEG_CCACHE= -D CMAKE_UNITY_BUILD=ON \
  -D CMAKE_UNITY_BUILD_BATCH_SIZE=9 -D CMAKE_CXX_FLAGS_DEBUG="-O0 --coverage -fprofile-update=atomic"
cmake --build "$folder" --parallel "${SMOOSEG_JOBS:-$(nproc)}" --target smooseg_tests
find "$folder" -name '*.gcda' -delete  # of an earlier run
"$folder/bin/smooseg_tests"
mkdir -p "$folder/html"
gcovr --root . --filter include/ --print-summary --txt --html-details "$folder/html/index.html" \
  --fail-under-line "$least" "$folder"
