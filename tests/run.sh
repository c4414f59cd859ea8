#!/usr/bin/env bash
# Builds library, program and tests, and runs all tests; installs what is missing first.
#
#   tests/run.sh [--unit | --library] [CTEST OPTION...]            e.g. tests/run.sh -R smoothness
#   SMOOSEG_LIBTORCH=pypi tests/run.sh                 with the LibTorch of Python's torch, see cmake/setup.sh
#   SMOOSEG_COMPILER=clang tests/run.sh                with Clang
#   SMOOSEG_SANITIZE=ON tests/run.sh                   under AddressSanitizer and UndefinedBehaviorSanitizer
#
# --unit: only the unit tests of library and program, and only these are built; --library: those of the library alone.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=() selection=()
if [ "${1:-}" = --unit ]; then
  targets=(smooseg_tests smooseg_app_tests)
  selection=(-R '^(library|program)/')
  shift
elif [ "${1:-}" = --library ]; then
  targets=(smooseg_tests)
  selection=(-R '^library/')
  shift
fi
. cmake/setup.sh
cmake/build.sh "${targets[@]}"
ctest --test-dir "$SMOOSEG_BUILD_DIR" --output-on-failure --parallel "$(nproc)" "${selection[@]}" "$@"
