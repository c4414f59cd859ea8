#!/usr/bin/env bash
# Builds everything and runs all tests; installs what is missing first.
#
#   tests/run.sh [CTEST OPTION...]                     e.g. tests/run.sh -R smoothness
#   SMOOSEG_LIBTORCH=pypi tests/run.sh                 with the LibTorch of Python's torch, see cmake/setup.sh
#   SMOOSEG_SANITIZE=ON tests/run.sh                   under AddressSanitizer and UndefinedBehaviorSanitizer
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh
cmake/build.sh
ctest --test-dir "$SMOOSEG_BUILD_DIR" --output-on-failure --parallel "$(nproc)" "$@"
