#!/usr/bin/env bash
# Sets up, configures and builds smooseg in build/<which LibTorch>[-clang][-sanitize]; the programs are in its bin/.
#
#   cmake/build.sh [TARGET...]        default: all but the benchmarks; the program alone: smooseg_cli
#
# SMOOSEG_LIBTORCH and SMOOSEG_COMPILER (see setup.sh) and SMOOSEG_SANITIZE=ON choose the variant, that of a preset in
# CMakePresets.json where there is one. SMOOSEG_WARNINGS_AS_ERRORS=ON stops at a warning.
# SMOOSEG_OPTIMISATION=-O1 replaces -O3. SMOOSEG_UNITY_BUILD=ON compiles several files at a time: half the work for
# all, more for one. SMOOSEG_TEST_BRIEFLY=ON leaves out tests that do not depend on LibTorch's
# release.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh

# A file that includes LibTorch takes up to 2 GB to compile: fewer jobs than cores where memory is short.
memory_kb=$(awk '/MemAvailable/ {print $2}' /proc/meminfo 2>/dev/null || echo 4000000)
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
if [ "$limit" != max ] && [ $((limit / 1024)) -lt "$memory_kb" ]; then memory_kb=$((limit / 1024)); fi
jobs=$((memory_kb / 2000000))
if [ "$jobs" -gt "$(nproc)" ]; then jobs=$(nproc); fi
if [ "$jobs" -lt 1 ]; then jobs=1; fi

cmake --preset "$SMOOSEG_PRESET" -B "$SMOOSEG_BUILD_DIR" ${SMOOSEG_COMPILER:+-D CMAKE_CXX_COMPILER=clang++} \
  -D SMOOSEG_LIBTORCH="$SMOOSEG_LIBTORCH" -D SMOOSEG_VENV="$SMOOSEG_VENV" \
  -D SMOOSEG_WARNINGS_AS_ERRORS="${SMOOSEG_WARNINGS_AS_ERRORS:-OFF}" \
  ${SMOOSEG_OPTIMISATION:+-D "CMAKE_CXX_FLAGS_RELEASE=$SMOOSEG_OPTIMISATION -DNDEBUG"} \
  -D SMOOSEG_TEST_BRIEFLY="${SMOOSEG_TEST_BRIEFLY:-OFF}" \
  -D CMAKE_UNITY_BUILD="${SMOOSEG_UNITY_BUILD:-OFF}" -D CMAKE_UNITY_BUILD_BATCH_SIZE=9
cmake --build "$SMOOSEG_BUILD_DIR" --parallel "$jobs" --target "${@:-all}"
