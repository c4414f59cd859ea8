#!/usr/bin/env bash
# Makes a release of what is checked out, all but the push: checks, tests, packages, tag. docs/versioning.md says what
# the numbers mean.
#
#   cmake/release.sh --dry-run      only checks, and says what it would do
#   cmake/release.sh
#
# Before: set the version in include/smooseg/version.hpp, and in docs/CHANGELOG.md the heading `## VERSION (YYYY-MM-DD)`.
# The packages go to build/release.
set -euo pipefail
cd "$(dirname "$0")/.."
dry_run=
case ${1:-} in
  '') ;;
  --dry-run) dry_run=1 ;;
  *) echo "usage: cmake/release.sh [--dry-run]" >&2; exit 2 ;;
esac

number() { sed -nE "s/^#define SMOOSEG_VERSION_$1 ([0-9]+)$/\1/p" include/smooseg/version.hpp; }
version=$(sed -nE 's/^#define SMOOSEG_VERSION "(.*)"$/\1/p' include/smooseg/version.hpp)
tag=v$version
last=$(git tag --list 'v*' --sort=-version:refname | head -n 1)
heading=$(grep -m 1 '^## ' docs/CHANGELOG.md || true)
# The changelog's lines of this version.
notes=$(awk -v heading="$heading" '$0 == heading {on = 1; next} /^## / {on = 0} on' docs/CHANGELOG.md)

wrong=0
check() {  # COMMAND... with what is wrong where it fails in $problem
  "$@" && return
  echo "release: $problem" >&2
  wrong=1
}
is() { [[ $1 == $2 ]]; }  # the second is a pattern
matches() { [[ $1 =~ $2 ]]; }
# Whether the version comes after the last one that was tagged.
is_next() { [ -z "$last" ] || { [ "$last" != "$tag" ] && [ "$(printf '%s\n' "$last" "$tag" | sort -V | tail -n 1)" = "$tag" ]; }; }

problem="the numbers in version.hpp, $(number MAJOR).$(number MINOR).$(number PATCH), are not its text, $version"
check is "$version" "$(number MAJOR).$(number MINOR).$(number PATCH)"
ported=$(sed -nE 's/^  "version": "(.*)",$/\1/p' cmake/packaging/vcpkg/vcpkg.json)
problem="expected the version $version in cmake/packaging/vcpkg/vcpkg.json, found $ported"
check is "$ported" "$version"
problem="there are changes that are not committed: $(git status --porcelain | wc -l) files"
check is "$(git status --porcelain)" ""
problem="expected '## $version (YYYY-MM-DD)' as the first heading of docs/CHANGELOG.md, found '$heading'"
check matches "$heading" "^## ${version//./\\.} \([0-9]{4}-[0-9]{2}-[0-9]{2}\)$"
problem="the changelog says nothing of $version"
check is "$notes" "*- *"
problem="expected a version after $last, the last one that was released, found $version"
check is_next
if [ "$wrong" = 1 ]; then
  [ -z "$dry_run" ] || echo "release: nothing was changed" >&2
  exit 1
fi

# Does it, or says so, but for a message's further lines.
run() {
  if [ -n "$dry_run" ]; then echo "would run: ${*%%$'\n'*}"; else "$@"; fi
}
packages=build/release
python=$PWD/build/venv/bin/python3  # with torch, of .ci/run
run .ci/run
run rm -rf "$packages"
run cmake -S . -B "$packages" -D SMOOSEG_LIBTORCH=debian
run cmake --build "$packages"
run cpack --config "$packages/CPackConfig.cmake" -B "$packages"
run env -C examples/python "$python" setup.py -q egg_info --egg-base "$PWD/$packages" sdist --dist-dir "$PWD/$packages"
run git tag --annotate "$tag" --cleanup=verbatim --message "smooseg $version"$'\n'"$notes"
echo "release: ${dry_run:+would be }ready; what remains is: git push origin HEAD $tag"
