#!/usr/bin/env bash
# Builds the site of documentation, guides and API reference, in build/site/html; it needs no network to be read.
# A broken link or an error in a doc comment ends it with an error. Installs Doxygen, its theme and MathJax where missing.
#
#   docs/build.sh [FOLDER]        default: build/site
set -euo pipefail
cd "$(dirname "$0")/.."
mathjax=/usr/share/javascript/mathjax
theme=/usr/share/doxygen-awesome-css
missing=()
command -v doxygen >/dev/null || missing+=(doxygen)
[ -d "$theme" ] || missing+=(doxygen-awesome-css)
[ -d "$mathjax" ] || missing+=(libjs-mathjax)
if [ "${#missing[@]}" -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi

OUT=$(realpath -m --relative-to=. "${1:-build/site}")
VERSION=$(sed -nE 's/^#define SMOOSEG_VERSION "(.*)"$/\1/p' include/smooseg/version.hpp)
export OUT VERSION
rm -rf "$OUT"
mkdir -p "$OUT/html/mathjax"
for example in examples/*.cpp; do
  echo "/** @example ${example##*/} */"
done >"$OUT/examples.dox"
doxygen docs/site/Doxyfile
# Of MathJax what formulas in TeX, drawn as SVG in one font, need.
(cd "$mathjax" && cp -rL --parents MathJax.js extensions jax/element jax/input/TeX jax/output/SVG "$OLDPWD/$OUT/html/mathjax/")
find "$OUT/html/mathjax/jax/output/SVG/fonts" -mindepth 1 -maxdepth 1 ! -name TeX -exec rm -r {} +
if [ -s "$OUT/warnings.txt" ]; then
  cat "$OUT/warnings.txt" >&2
  exit 1
fi
echo "$OUT/html/index.html"
