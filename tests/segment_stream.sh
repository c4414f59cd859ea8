#!/usr/bin/env bash
# Frames from a folder and from a pipe get labels, and what is wrong is said.
#
#   tests/segment_stream.sh SMOOSEG SEGMENT_STREAM
set -euo pipefail
smooseg=$1 stream=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Each step says what went wrong, since nothing else is printed.
trap 'echo "$0: line $LINENO failed"; cat "$dir/said"' ERR
"$smooseg" prepare scenes --out "$dir/scenes" >"$dir/said" 2>&1
mkdir "$dir/pictures"
find "$dir/scenes/images/test" -type f | sort | sed -n 1,3p | xargs cp -t "$dir/pictures"
"$smooseg" train --data "$dir/pictures" --out "$dir/model" --classes 4 --resolution 64 --textons 8 --batch 2 \
  --embed-dim 8 --iterations 4 --device cpu >"$dir/said" 2>&1
model=$dir/model/best.safetensors

"$stream" "$model" "$dir/pictures" >"$dir/folder.raw" 2>"$dir/said"
grep -q '^3 frames, ' "$dir/said"
[ "$(stat -c %s "$dir/folder.raw")" = $((3 * 240 * 320)) ]

# The pixels of three times the same frame.
head -c $((64 * 80 * 3)) /dev/urandom >"$dir/frame"
cat "$dir/frame" "$dir/frame" "$dir/frame" | "$stream" "$model" 80 64 >"$dir/pipe.raw" 2>"$dir/said"
grep -q '^3 frames, ' "$dir/said"
cmp <(head -c $((64 * 80)) "$dir/pipe.raw") <(tail -c $((64 * 80)) "$dir/pipe.raw")

# A frame that is cut short, and a model that is not there.
if head -c 100 "$dir/frame" | "$stream" "$model" 80 64 >/dev/null 2>"$dir/said"; then exit 1; fi
grep -q 'expected frames of 15360 bytes, found one of 100' "$dir/said"
if "$stream" "$dir/missing" 80 64 >/dev/null 2>"$dir/said" </dev/null; then exit 1; fi
grep -q "$dir/missing" "$dir/said"
echo "frames of folders and pipes are labelled"
