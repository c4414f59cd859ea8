#!/usr/bin/env bash
# Installs what smooseg is built with, where it is missing; does nothing, and needs no network, where all is there.
#
#   cmake/setup.sh            or, from a script:   . cmake/setup.sh
#
# SMOOSEG_LIBTORCH chooses the LibTorch: `debian` (the package libtorch-dev), `pypi` (Python's `torch`, in a virtual
# environment in SMOOSEG_VENV, by default build/venv) or the folder of one. Unset: the one in Torch_DIR or
# CMAKE_PREFIX_PATH, that of the active Python, `pypi` on a machine with an NVIDIA driver, else `debian`.
# SMOOSEG_COMPILER=clang compiles with Clang instead of the system's default.
#
# A script that sources this gets SMOOSEG_LIBTORCH, SMOOSEG_VENV, SMOOSEG_BUILD_DIR (build/<which LibTorch> and the
# variant) and SMOOSEG_PRESET, the preset of CMakePresets.json to configure that folder with.

smooseg_say() { echo "setup: $*" >&2; }

# Whether the variable named $1 is switched on.
smooseg_on() { case ${!1:-} in ON | on | 1 | TRUE | true | YES | yes) ;; *) return 1 ;; esac; }

# The Debian packages among those named that are not installed, one a line.
smooseg_not_installed() {
  local package
  for package in "$@"; do
    case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) in *" installed") ;; *) echo "$package" ;; esac
  done
}

smooseg_install() {
  local as_root=()
  [ $# -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
      { smooseg_say "missing, and neither root nor sudo to install them: apt-get install $*"; return 1; }
    as_root=(sudo)
  fi
  smooseg_say "installing $*"
  "${as_root[@]}" apt-get update -q >&2 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >&2 ||
    { smooseg_say "apt-get could not install: $*"; return 1; }
}

smooseg_install_tools() {
  local packages
  if ! command -v dpkg-query >/dev/null; then
    smooseg_say "no Debian system: install a C++17 compiler, CMake, Ninja, Eigen, Catch2, Google Benchmark, CLI11," \
      "nlohmann-json, libpng, libjpeg-turbo, xxHash, toml++ and OpenSSL with your own package manager if they are" \
      "missing, libtiff, libwebp and libmatio for pictures in these formats, and Gloo for several processes"
    return 0
  fi
  mapfile -t packages < <(
    command -v "$(smooseg_compiler)" >/dev/null || smooseg_compiler_package
    command -v cmake >/dev/null || echo cmake
    command -v ninja >/dev/null || echo ninja-build
    command -v pkg-config >/dev/null || echo pkg-config
    command -v curl >/dev/null || echo curl # fetches weights
    if smooseg_on SMOOSEG_SANITIZE && [ "$(smooseg_compiler)" = clang++ ]; then
      smooseg_not_installed libclang-rt-dev # Clang's sanitizers
    fi
    smooseg_not_installed libeigen3-dev catch2 libbenchmark-dev libcli11-dev nlohmann-json3-dev libpng-dev libjpeg-dev \
      libxxhash-dev libtomlplusplus-dev libssl-dev libtiff-dev libwebp-dev libmatio-dev \
      libgloo-dev)
  smooseg_install "${packages[@]}"
}

smooseg_compiler() { if [ "${SMOOSEG_COMPILER:-}" = clang ]; then echo clang++; else echo c++; fi; }
smooseg_compiler_package() { if [ "${SMOOSEG_COMPILER:-}" = clang ]; then echo clang; else echo g++; fi; }

# Where CMake finds the LibTorch that SMOOSEG_LIBTORCH asks for: KIND:FOLDER, with no FOLDER if there is none.
smooseg_find_libtorch() {
  cmake -D SMOOSEG_LIBTORCH="${SMOOSEG_LIBTORCH:-}" -D SMOOSEG_VENV="${SMOOSEG_VENV:-}" \
    -P "$smooseg_root/cmake/SmoosegTorch.cmake"
}

smooseg_choose_libtorch() {
  local found
  if [ -z "${SMOOSEG_LIBTORCH:-}" ]; then
    found=$(smooseg_find_libtorch) || return 1
    case $found in
      debian:*) if nvidia-smi -L >/dev/null 2>&1; then SMOOSEG_LIBTORCH=pypi; else SMOOSEG_LIBTORCH=debian; fi ;;
      *) SMOOSEG_LIBTORCH=${found#*:} ;;
    esac
  fi
  SMOOSEG_VENV=${SMOOSEG_VENV:-$smooseg_root/build/venv}
  case $SMOOSEG_LIBTORCH in
    debian) SMOOSEG_BUILD_DIR=debian SMOOSEG_PRESET=release ;;
    pypi) SMOOSEG_BUILD_DIR=pypi SMOOSEG_PRESET=pypi ;;
    *)
      SMOOSEG_BUILD_DIR=folder SMOOSEG_PRESET=release
      found=$(smooseg_find_libtorch) || return 1
      [ "$found" != folder: ] || { smooseg_say "SMOOSEG_LIBTORCH: expected debian, pypi or the folder of a LibTorch," \
        "found $SMOOSEG_LIBTORCH"; return 1; } ;;
  esac
  SMOOSEG_BUILD_DIR=$smooseg_root/build/$SMOOSEG_BUILD_DIR
  case ${SMOOSEG_COMPILER:-} in
    '') ;;
    clang) SMOOSEG_BUILD_DIR+=-clang SMOOSEG_PRESET=clang ;;
    *) smooseg_say "SMOOSEG_COMPILER: expected clang or nothing, found $SMOOSEG_COMPILER"; return 1 ;;
  esac
  if smooseg_on SMOOSEG_SANITIZE; then SMOOSEG_BUILD_DIR+=-sanitize SMOOSEG_PRESET=sanitizers; fi
  export SMOOSEG_LIBTORCH SMOOSEG_VENV SMOOSEG_BUILD_DIR SMOOSEG_PRESET
}

smooseg_install_libtorch() {
  local packages
  case $SMOOSEG_LIBTORCH in
    debian)
      command -v dpkg-query >/dev/null || return 0
      # Without OpenBLAS matrix products run 30 times slower.
      mapfile -t packages < <(smooseg_not_installed libtorch-dev libopenblas0-openmp)
      smooseg_install "${packages[@]}" ;;
    pypi)
      [ "$(smooseg_find_libtorch)" = pypi: ] || return 0
      if [ ! -x "$SMOOSEG_VENV/bin/python3" ] && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        smooseg_install python3-venv || return 1
      fi
      smooseg_say "installing torch into $SMOOSEG_VENV"
      python3 -m venv "$SMOOSEG_VENV" >&2 &&
        "$SMOOSEG_VENV/bin/python3" -m pip install --quiet --disable-pip-version-check torch numpy safetensors >&2 ||
        { smooseg_say "pip could not install torch into $SMOOSEG_VENV"; return 1; } ;;
  esac
}

smooseg_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
smooseg_install_tools && smooseg_choose_libtorch && smooseg_install_libtorch
