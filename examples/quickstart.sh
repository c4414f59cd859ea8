#!/usr/bin/env bash
# From nothing to a trained model, its scores, its pictures and a page of them all; installs what is missing first.
#
#   examples/quickstart.sh                                    made-up scenes of textures
#   examples/quickstart.sh --data DIR [--classes K]           your own pictures, with or without labels
#   examples/quickstart.sh --data DIR --backbone NAME         features of weights from 'smooseg weights get NAME'
#   examples/quickstart.sh --data DIR --weights FILE [--backbone NAME]
#                                                             of a file of weights (default: of dino_vits8)
#   --iterations N, --out DIR                                 steps to train, where to put it all (out/quickstart)
#
# SMOOSEG_LIBTORCH chooses the LibTorch, see cmake/setup.sh.
set -euo pipefail

fail() { echo "quickstart.sh: $*" >&2; exit 2; }
data='' weights='' backbone='' classes='' iterations='' out=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" | sed '/^set /d'; exit 0 ;;
    --data | --weights | --backbone | --classes | --iterations | --out)
      [ $# -ge 2 ] || fail "$1: expected a value"
      declare "${1#--}=$2"
      shift 2 ;;
    *) fail "unknown option '$1'; see --help" ;;
  esac
done
# Paths are the caller's; from here on everything happens at the top of the repository.
[ -z "$data" ] || data=$(realpath -m "$data")
[ -z "$weights" ] || weights=$(realpath -m "$weights")
[ -z "$out" ] || out=$(realpath -m "$out")
cd "$(dirname "$0")/.."
out=${out:-$PWD/out/quickstart}
[ -z "$data" ] || [ -d "$data" ] || fail "--data: there is no folder $data"
[ -z "$weights" ] || [ -f "$weights" ] || fail "--weights: there is no file $weights"

. cmake/setup.sh
cmake/build.sh smooseg_cli
smooseg=$SMOOSEG_BUILD_DIR/bin/smooseg

config=examples/configs/scenes.toml
[ -z "$data" ] || config=examples/configs/folder.toml
options=()
if [ -n "$weights$backbone" ]; then
  config=examples/configs/dino.toml
  options+=(--backbone "${backbone:-dino_vits8}")
  [ -z "$weights" ] || options+=(--weights "$weights")
fi
if [ -z "$data" ]; then
  data=$out/scenes
  "$smooseg" prepare scenes --out "$data"
fi
if [ -z "$classes" ] && [ ! -f "$data/classes.json" ] && [ ! -f "$data/dataset.json" ]; then classes=8; fi
[ -z "$classes" ] || options+=(--classes "$classes")
[ -z "$iterations" ] || options+=(--iterations "$iterations")

"$smooseg" train --config "$config" "${options[@]}" --data "$data" --out "$out/model" --overwrite
if [ -d "$data/labels/test" ] || [ -f "$data/dataset.json" ]; then
  "$smooseg" evaluate --config "$config" --model "$out/model/best.safetensors" --data "$data" --kmeans
else
  # A dozen pictures; of those of one name in several folders, one, since their results would be named alike.
  folder=$data
  [ ! -d "$data/images" ] || folder=$data/images
  mapfile -t pictures < <(find "$folder" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o \
    -iname '*.tif' -o -iname '*.tiff' -o -iname '*.bmp' -o -iname '*.webp' \) | sort |
    awk -F/ '{ name = $NF; sub(/\.[^.]*$/, "", name) } !seen[name]++' | head -n 12)
  "$smooseg" segment --model "$out/model/best.safetensors" --out "$out/pictures" "${pictures[@]}"
  echo "pictures: $out/pictures"
fi
"$smooseg" report "$out/model" --data "$data" -o "$out/report.html" >/dev/null
echo "a page to look at, in any browser: $out/report.html"
