#!/usr/bin/env bash
# Kernels do not depend on the user's -march: not many more vectors go through the stack with it than without (where GCC
# spilled its registers, 211 instead of 3).
#
#   tests/flags/native.sh COMPILER FLAG...
set -euo pipefail
source=$(dirname "$0")/kernels.cpp
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Instructions of the kernels that read or write a vector on the stack.
stack_accesses() {
  "$@" -O3 -w -S -o "$folder/kernels.s" "$source"
  awk '/^[^ \t.]*:/ {kernel = /run_avx512/} kernel && /[xyz]mm/ && /\(%r[sb]p/ {n++} END {print n + 0}' "$folder/kernels.s"
}

without=$(stack_accesses "$@")
with=$(stack_accesses "$@" -march=x86-64-v4)
echo "vectors on the stack: $without, and with -march=x86-64-v4 $with"
grep -q 'zmm' "$folder/kernels.s"
[ "$with" -le $((2 * without + 16)) ]
