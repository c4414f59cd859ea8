#!/usr/bin/env bash
# The Conan recipe, without a network: Eigen is the system's, and smooseg::eigen is used through Conan's toolchain.
#
#   tests/consumer/conan.sh CONAN COMPILER WORK_DIR
set -euo pipefail
conan=$1 compiler=$2 work=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
rm -rf "$work"
mkdir -p "$work"
export CONAN_HOME=$work/home CXX=$compiler
"$conan" remote disable '*' >/dev/null
"$conan" profile detect >/dev/null
printf '[platform_requires]\neigen/3.4.0\n[conf]\ntools.cmake.cmaketoolchain:generator=Ninja\n' >>"$CONAN_HOME/profiles/default"

"$conan" create "$root/cmake/packaging/conan" -s compiler.cppstd=17
printf '[requires]\nsmooseg/[*]\n[generators]\nCMakeToolchain\nCMakeDeps\n' >"$work/conanfile.txt"
"$conan" install "$work/conanfile.txt" --output-folder "$work/toolchain" -s compiler.cppstd=17
cmake -G Ninja -S "$root/tests/consumer" -B "$work/build" -D CMAKE_BUILD_TYPE=Release -D WAY=find_package -D COMPONENTS=eigen \
  -D CMAKE_TOOLCHAIN_FILE="$work/toolchain/conan_toolchain.cmake" -D SMOOSEG_LIBTORCH="$work/none"
cmake --build "$work/build"
"$work/build/consumer"
