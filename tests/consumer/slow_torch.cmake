# A LibTorch that was built without oneDNN or OpenMP is named when CMake finds it. It is made up of the files that are
# looked at.

cmake_minimum_required(VERSION 3.20)
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")

# The messages of a configure with a LibTorch of these two options.
function(messages_with onednn openmp output)
  set(torch "${WORK_DIR}/torch")
  file(REMOVE_RECURSE "${WORK_DIR}")
  file(WRITE "${torch}/include/torch/csrc/api/include/torch/version.h"
    "#define TORCH_VERSION_MAJOR 1\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 1\n")
  file(WRITE "${torch}/include/ATen/ATen.h" "")
  file(WRITE "${torch}/include/ATen/Config.h" "#define AT_MKLDNN_ENABLED() ${onednn}\n#define AT_MKL_ENABLED() 0\n"
    "#define AT_PARALLEL_OPENMP ${openmp}\n#define AT_PARALLEL_NATIVE 0\n")
  foreach(name IN ITEMS torch torch_cpu c10)
    file(WRITE "${torch}/lib/${PREFIX}${name}${SUFFIX}" "")
  endforeach()
  run_for(out "${CMAKE_COMMAND}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DSMOOSEG_LIBTORCH=${torch}"
    -DCMAKE_BUILD_TYPE=Debug -S "${SOURCE_DIR}" -B "${WORK_DIR}/library")
  string(REGEX REPLACE "[ \n]+" " " out "${out}")
  check_contains("${out}" "LibTorch 1.13.1 (folder")
  set(${output} "${out}" PARENT_SCOPE)
endfunction()

set(warning "this LibTorch was built without")
messages_with(1 1 out)
check_contains("${out}" "${warning}" NOT)
messages_with(0 1 out)
check_contains("${out}" "${warning} oneDNN, so")
messages_with(1 0 out)
check_contains("${out}" "${warning} OpenMP, so")
messages_with(0 0 out)
check_contains("${out}" "${warning} oneDNN and OpenMP, so")
