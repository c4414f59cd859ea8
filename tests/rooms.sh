#!/usr/bin/env bash
# Checks that includes of library and program go one way: only to rooms listed before one's own, never into another
# room's detail/, never in a circle. Prints each offending include; checks first that it finds planted ones.
#
#   tests/rooms.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# A room is a folder (its name ends in /) or a single header.
library_rooms="version.hpp memory.hpp options.hpp tensor.hpp exchange.hpp detail/ detail/kernels/ detail/autograd/ closeness.hpp position_free.hpp
  penalty.hpp pairing.hpp ema.hpp smoothness.hpp predictor.hpp prototype_restarts.hpp data_term.hpp loss.hpp projector.hpp io/ baselines/ thresholds.hpp class_count.hpp
  backbone/ segmenter.hpp window_segmenter.hpp metrics/ crf/ eigen/ smooseg.hpp"
# These stand beside the losses: they include nothing but the rooms up to detail/kernels/, and only smooseg.hpp includes
# them.
library_beside="metrics/ crf/"
program_rooms="support/ settings/ data/ features/ model/ report/ commands/ main.cpp"

# The includes in quotes of all sources below $1, as lines `FILE:NUMBER INCLUDED`; FILE without $1, INCLUDED without $2.
includes() {
  grep -rnE --include='*.hpp' --include='*.cpp' '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$1" |
    sed -E "s|^$1/([^:]*:[0-9]+):[^\"]*\"($2)?([^\"]*)\".*|\1 \3|"
}

# Reads the includes and prints those that break a rule; arguments: rooms, rooms beside.
offences() {
  awk -v rooms="$1" -v beside="$2" '
    function room_of(path,   i, best) {
      best = ""
      for (i = 1; i <= count; ++i)
        if (path == name[i] || (name[i] ~ /\/$/ && index(path, name[i]) == 1))
          if (length(name[i]) > length(best)) best = name[i]
      return best
    }
    function complain(why) { print "  " $1 " includes " $2 ": " why }
    BEGIN {
      count = split(rooms, name)
      for (i = 1; i <= count; ++i) rank[name[i]] = i
      split(beside, list)
      for (i in list) is_beside[list[i]] = 1
    }
    {
      file = $1
      sub(/:[0-9]+$/, "", file)
      from = room_of(file)
      if ($2 ~ /^smooseg\//) {  # the program includes the library, but nothing private to one of its rooms
        if ($2 ~ /\/.*\/detail\//) complain("it is private to its room")
        next
      }
      to = room_of($2)
      if (from == "") { complain(file " is in no room of the list"); next }
      if (to == "") { complain("it is in no room of the list"); next }
      if (rank[to] > rank[from]) complain(to " stands above " from)
      else if (to != from && is_beside[from] && rank[to] > rank["detail/kernels/"]) complain(from " stands beside " to)
      else if (to != from && is_beside[to] && from != "smooseg.hpp") complain(to " stands beside " from)
      else if (match($2, /.\/detail\//) && index(file, substr($2, 1, RSTART + 1)) != 1)
        complain("it is private to its room")
    }'
}

# Reads the includes and prints the circles among them.
circles() {
  sed -E 's/:[0-9]+ / /' | tsort 2>&1 >/dev/null |
    sed -n 's/^tsort: -: input contains a loop:/  circle of includes:/p; t; s/^tsort: /    /p'
}

# What is wrong below $1, nothing if all is well.
check() {
  local library=$1/include/smooseg program=$1/examples/app
  includes "$library" smooseg/ | offences "$library_rooms" "$library_beside"
  includes "$library" smooseg/ | circles
  includes "$program" '' | offences "$program_rooms" ""
  includes "$program" '' | circles
}

planted=$(mktemp -d)
trap 'rm -rf "$planted"' EXIT

# plant FILE INCLUDED: the check must find this include, and nothing in a tree without it.
plant() {
  rm -rf "${planted:?}"/*
  mkdir -p "$planted/include/smooseg/io/detail" "$planted/examples/app/data"
  echo '#include "smooseg/version.hpp"' >"$planted/include/smooseg/loss.hpp"
  echo '#include "smooseg/io/detail/zip.hpp"' >"$planted/include/smooseg/io/load.hpp"
  echo '#include "smooseg/loss.hpp"' >"$planted/examples/app/data/b.hpp"
  echo '#include "data/b.hpp"' >"$planted/examples/app/data/a.hpp"
  local before
  before=$(check "$planted")
  [ -z "$before" ] || { printf 'rooms.sh complains without cause:\n%s\n' "$before"; exit 1; }
  mkdir -p "$(dirname "$planted/$1")"
  echo "#include \"$2\"" >>"$planted/$1"
  [ -n "$(check "$planted")" ] || { echo "rooms.sh does not find that $1 includes $2"; exit 1; }
}
plant include/smooseg/loss.hpp smooseg/io/load.hpp            # an arrow back
plant include/smooseg/io/load.hpp data/a.hpp                  # the library reaches into the program
plant include/smooseg/backbone/registry.hpp smooseg/io/detail/zip.hpp  # private to another room
plant examples/app/data/a.hpp smooseg/io/detail/zip.hpp       # the same by the program
plant include/smooseg/crf/dense_crf.hpp smooseg/loss.hpp      # from a room beside
plant include/smooseg/segmenter.hpp smooseg/crf/dense_crf.hpp # to a room beside
plant include/smooseg/unknown.hpp smooseg/version.hpp         # a file in no room
plant examples/app/data/a.hpp commands/train.hpp              # an arrow back in the program
plant examples/app/data/b.hpp data/a.hpp                      # a circle within a room

found=$(check .)
[ -z "$found" ] || { printf 'includes that go the wrong way:\n%s\n' "$found"; exit 1; }
echo "all includes of library and program go one way"
