#!/usr/bin/env bash
# Installs what smooseg is built with, where it is missing; does nothing, and needs no network, where all is there.
#
#   cmake/setup.sh            or, from a script:   . cmake/setup.sh
#
# SMOOSEG_LIBTORCH chooses the LibTorch: `debian` (the package libtorch-dev), `pypi` (Python's `torch`, in a virtual
# environment in SMOOSEG_VENV, by default build/venv) or the folder of one. Unset: the one in Torch_DIR or
# CMAKE_PREFIX_PATH, that of the active Python, `pypi` on a machine with an NVIDIA driver, else `debian`.
#
# A script that sources this gets SMOOSEG_LIBTORCH, SMOOSEG_VENV and SMOOSEG_BUILD_DIR (build/<which LibTorch>).

smooseg_say() { echo "setup: $*" >&2; }

# The package folder of a Python's torch, "" if it has none. Does not import it.
smooseg_torch_of_python() {
  "$1" -c 'import importlib.util, os
s = importlib.util.find_spec("torch")
print(os.path.dirname(s.origin) if s else "")' 2>/dev/null || true
}

# The LibTorch that the environment points to, "" if none.
smooseg_torch_of_environment() {
  local folder up entries
  IFS=: read -r -a entries <<<"${Torch_DIR:-}:${CMAKE_PREFIX_PATH:-}"
  for folder in "${entries[@]}"; do
    for up in "" /../.. /../../.. /../../../..; do
      case $folder/$up in */cmake/* | */) ;; *) break ;; esac # above the folder only from share/cmake and below
      if [ -n "$folder" ] && [ -e "$folder$up/include/torch/csrc/api/include/torch/version.h" ]; then
        (cd "$folder$up" && pwd)
        return
      fi
    done
  done
  smooseg_torch_of_python python3
}

smooseg_choose_libtorch() {
  [ -n "${SMOOSEG_LIBTORCH:-}" ] || SMOOSEG_LIBTORCH=$(smooseg_torch_of_environment)
  if [ -z "$SMOOSEG_LIBTORCH" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then SMOOSEG_LIBTORCH=pypi; else SMOOSEG_LIBTORCH=debian; fi
  fi
  local kind=folder
  case $SMOOSEG_LIBTORCH in
    debian | pypi) kind=$SMOOSEG_LIBTORCH ;;
    *) [ -d "$SMOOSEG_LIBTORCH" ] ||
      { smooseg_say "SMOOSEG_LIBTORCH is neither debian, pypi nor a folder: $SMOOSEG_LIBTORCH"; return 1; } ;;
  esac
  SMOOSEG_VENV=${SMOOSEG_VENV:-$smooseg_root/build/venv}
  SMOOSEG_BUILD_DIR=$smooseg_root/build/$kind
  case ${SMOOSEG_SANITIZE:-OFF} in ON | on | 1 | TRUE | true | YES | yes) SMOOSEG_BUILD_DIR+=-sanitize ;; esac
  export SMOOSEG_LIBTORCH SMOOSEG_VENV SMOOSEG_BUILD_DIR
}

# Debian's packages that are missing, one a line.
smooseg_missing_packages() {
  command -v g++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
  command -v pkg-config >/dev/null || echo pkg-config
  command -v curl >/dev/null || echo curl # fetches weights
  local packages="libeigen3-dev catch2 libbenchmark-dev libcli11-dev nlohmann-json3-dev libpng-dev libjpeg-dev libxxhash-dev" package
  case $SMOOSEG_LIBTORCH in
    debian) packages+=" libtorch-dev libopenblas0-openmp" ;; # without OpenBLAS matrix products run 30 times slower
    pypi) [ -x "$SMOOSEG_VENV/bin/python3" ] || python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv ;;
  esac
  for package in $packages; do
    case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) in *" installed") ;; *) echo "$package" ;; esac
  done
}

smooseg_install_packages() {
  local packages as_root=()
  if ! command -v dpkg-query >/dev/null; then
    smooseg_say "no Debian system: install a C++17 compiler, CMake, Eigen, Catch2, Google Benchmark, CLI11," \
      "nlohmann-json, libpng, libjpeg-turbo and xxHash with your own package manager if they are missing"
    return 0
  fi
  mapfile -t packages < <(smooseg_missing_packages)
  [ ${#packages[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
      { smooseg_say "missing, and neither root nor sudo to install them: apt-get install ${packages[*]}"; return 1; }
    as_root=(sudo)
  fi
  smooseg_say "installing ${packages[*]}"
  "${as_root[@]}" apt-get update -q >&2 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -qy --no-install-recommends "${packages[@]}" >&2 ||
    { smooseg_say "apt-get could not install: ${packages[*]}"; return 1; }
}

smooseg_install_torch_of_pypi() {
  [ "$SMOOSEG_LIBTORCH" = pypi ] || return 0
  [ -z "$(smooseg_torch_of_python "$SMOOSEG_VENV/bin/python3")" ] || return 0
  smooseg_say "installing torch into $SMOOSEG_VENV"
  python3 -m venv "$SMOOSEG_VENV" >&2 &&
    "$SMOOSEG_VENV/bin/python3" -m pip install --quiet --disable-pip-version-check torch numpy safetensors >&2 ||
    { smooseg_say "pip could not install torch into $SMOOSEG_VENV"; return 1; }
}

smooseg_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
smooseg_choose_libtorch && smooseg_install_packages && smooseg_install_torch_of_pypi
