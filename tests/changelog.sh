#!/usr/bin/env bash
# A change of include/ that users notice has a line in the changelog: where include/ differs from BASE, docs/CHANGELOG.md
# must differ too. A change that no user notices says so in a commit: a line "Changelog: none" in its message.
#
#   tests/changelog.sh [BASE]        default: where this branch left the main one; on that, the commit before
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:-}
if [ -z "$base" ]; then
  for branch in origin/HEAD origin/main main; do
    if base=$(git merge-base HEAD "$branch" 2>/dev/null); then break; fi
  done
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then base=$(git rev-parse -q --verify HEAD~1 || true); fi
  [ -n "$base" ] || { echo "no commit to compare with"; exit 0; }
fi
differs() { ! git diff --quiet "$base" -- "$1"; }  # what is not committed yet counts too

if ! differs include; then
  echo "include/ is as in $(git rev-parse --short "$base")"
elif differs docs/CHANGELOG.md; then
  echo "include/ has changed, and docs/CHANGELOG.md with it"
elif git log --format=%B "$base"..HEAD | grep -qi '^Changelog: none'; then
  echo "include/ has changed, in nothing that a user notices, say its commits"
else
  echo "include/ has changed since $(git rev-parse --short "$base"), and docs/CHANGELOG.md has not: add a line to it, or" \
    "'Changelog: none' to the commit's message"
  exit 1
fi
