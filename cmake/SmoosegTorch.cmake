# Finds LibTorch and makes the target `smooseg::torch` of it.
#
# Why not find_package(Torch): the config inside Python's `torch` stops without a CUDA toolkit although nothing of CUDA
# is compiled, its probe for GPUs stops CMake 3.25, and the linker then takes an older libnccl of the toolkit before the
# package's own. Here only include folders and libraries are looked up, at configure time of whoever uses smooseg, so
# that no path is baked into an installed smooseg.
#
# Looked for in this order:
#   1. Torch_DIR or CMAKE_PREFIX_PATH: an unpacked LibTorch archive, or torch.utils.cmake_prefix_path
#   2. the `torch` of the virtual environment in SMOOSEG_VENV, or else of the active Python
#   3. the system's (Debian's libtorch-dev)
# SMOOSEG_LIBTORCH (cache or environment) chooses one instead: `debian`, `pypi` or the folder of a LibTorch.
#
# Sets SmoosegTorch_FOUND, and SmoosegTorch_VERSION or SmoosegTorch_NOT_FOUND_MESSAGE. As a script,
#   cmake [-D SMOOSEG_LIBTORCH=...] [-D SMOOSEG_VENV=...] -P SmoosegTorch.cmake
# only prints where it found LibTorch: `debian:FOLDER`, `pypi:FOLDER` or `folder:FOLDER`, with no FOLDER if it did not.

set(SMOOSEG_LIBTORCH "$ENV{SMOOSEG_LIBTORCH}" CACHE STRING
  "LibTorch to use: debian, pypi or a folder; empty: the first found")

# `prefix`: where include/ and lib/ lie, given that folder, its share/cmake or a folder with TorchConfig.cmake in it.
function(_smooseg_torch_prefix folder prefix)
  set(${prefix} "" PARENT_SCOPE)
  foreach(up IN ITEMS "" "/../.." "/../../.." "/../../../..")
    if(up AND NOT folder MATCHES "/cmake(/|$)")
      return()
    endif()
    if(folder AND EXISTS "${folder}${up}/include/torch/csrc/api/include/torch/version.h")
      get_filename_component(found "${folder}${up}" ABSOLUTE)
      set(${prefix} "${found}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# `prefix`: the torch package of a Python, found without importing it.
function(_smooseg_torch_of_python prefix)
  set(${prefix} "" PARENT_SCOPE)
  set(venv "$ENV{SMOOSEG_VENV}")
  if(SMOOSEG_VENV)
    set(venv "${SMOOSEG_VENV}")
  endif()
  set(python python3)
  if(venv)
    set(python "${venv}/bin/python3")
  endif()
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util, os; s = importlib.util.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0)
    _smooseg_torch_prefix("${found}" found)
    set(${prefix} "${found}" PARENT_SCOPE)
  endif()
endfunction()

# `prefix` and `kind` of the LibTorch to use; an empty prefix if there is none.
function(_smooseg_choose_torch prefix kind)
  if(SMOOSEG_LIBTORCH STREQUAL "debian")
    _smooseg_torch_prefix("/usr" found)
    set(found_kind debian)
  elseif(SMOOSEG_LIBTORCH STREQUAL "pypi")
    _smooseg_torch_of_python(found)
    set(found_kind pypi)
  elseif(SMOOSEG_LIBTORCH)
    _smooseg_torch_prefix("${SMOOSEG_LIBTORCH}" found)
    set(found_kind folder)
  else()
    file(TO_CMAKE_PATH "$ENV{Torch_DIR}:$ENV{CMAKE_PREFIX_PATH}" from_environment)
    foreach(folder IN LISTS Torch_DIR CMAKE_PREFIX_PATH from_environment)
      _smooseg_torch_prefix("${folder}" found)
      set(found_kind folder)
      if(found)
        break()
      endif()
    endforeach()
    if(NOT found)
      _smooseg_torch_of_python(found)
      set(found_kind pypi)
    endif()
    if(NOT found)
      _smooseg_torch_prefix("/usr" found)
      set(found_kind debian)
    endif()
  endif()
  set(${prefix} "${found}" PARENT_SCOPE)
  set(${kind} "${found_kind}" PARENT_SCOPE)
endfunction()

# Reads MAJOR.MINOR.PATCH; in newer releases the numbers are in torch/headeronly/version.h.
function(_smooseg_torch_version prefix version)
  foreach(header IN ITEMS torch/csrc/api/include/torch/version.h torch/headeronly/version.h)
    if(EXISTS "${prefix}/include/${header}")
      file(STRINGS "${prefix}/include/${header}" lines REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
      if(lines)
        string(REGEX MATCHALL "[0-9]+" numbers "${lines}")
        list(JOIN numbers "." numbers)
        set(${version} "${numbers}" PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
  set(${version} "" PARENT_SCOPE)
endfunction()

# Makes smooseg::torch; sets `detail` to what a reader of the configure log wants to know beside the version, or, where
# there is no target afterwards, to the library that is missing.
function(_smooseg_make_torch prefix detail)
  set(libraries "")
  foreach(name IN ITEMS torch torch_cpu torch_cuda c10 c10_cuda)
    set(library_${name} "")
    foreach(folder IN ITEMS lib "lib/${CMAKE_LIBRARY_ARCHITECTURE}" lib64)
      set(file "${prefix}/${folder}/${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX}")
      if(NOT library_${name} AND EXISTS "${file}")
        set(library_${name} "${file}")
      endif()
    endforeach()
    if(NOT library_${name} AND NOT name MATCHES "cuda")
      set(${detail} "${name}" PARENT_SCOPE)
      return()
    endif()
    list(APPEND libraries ${library_${name}})
  endforeach()

  # GLOBAL: smooseg::smooseg, which links this, may be used in folders above the one that made it.
  add_library(smooseg::torch INTERFACE IMPORTED GLOBAL)
  set_property(TARGET smooseg::torch PROPERTY INTERFACE_LINK_LIBRARIES ${libraries})
  set_property(TARGET smooseg::torch PROPERTY INTERFACE_INCLUDE_DIRECTORIES
    "${prefix}/include" "${prefix}/include/torch/csrc/api/include")
  set(words "")

  file(STRINGS "${prefix}/include/ATen/ATen.h" needs_cxx20 REGEX "C\\+\\+20 or later")
  if(needs_cxx20)
    set_property(TARGET smooseg::torch PROPERTY INTERFACE_COMPILE_FEATURES cxx_std_20)
    list(APPEND words "C++20")
  else()
    list(APPEND words "C++17")
  endif()

  # Old archives were built with libstdc++'s ABI of before 2011, and everything linked with them must be so too.
  file(GLOB config "${prefix}/share/cmake/Torch/TorchConfig.cmake")
  if(config)
    file(STRINGS "${config}" old_abi REGEX "_GLIBCXX_USE_CXX11_ABI=0")
    if(old_abi)
      set_property(TARGET smooseg::torch PROPERTY INTERFACE_COMPILE_DEFINITIONS _GLIBCXX_USE_CXX11_ABI=0)
      list(APPEND words "old libstdc++ ABI")
    endif()
  endif()

  # The CUDA libraries register themselves when loaded, although nothing refers to them. The libraries that they need in
  # turn are found when the program starts; the folders beside the package come before those of a toolkit.
  if(library_torch_cuda AND NOT APPLE)
    file(GLOB beside "${prefix}/../nvidia/*/lib")
    list(TRANSFORM beside PREPEND "LINKER:-rpath-link,")
    set_property(TARGET smooseg::torch PROPERTY INTERFACE_LINK_OPTIONS
      "LINKER:--no-as-needed" "LINKER:--allow-shlib-undefined" ${beside})
    list(APPEND words "CUDA")
  else()
    list(APPEND words "CPU")
  endif()

  list(JOIN words ", " words)
  set(${detail} "${words}" PARENT_SCOPE)
endfunction()

# `lacks`: what this LibTorch was built without although speed depends on it, by its own list of build options.
function(_smooseg_torch_lacks prefix lacks)
  set(found "")
  if(EXISTS "${prefix}/include/ATen/Config.h")
    file(STRINGS "${prefix}/include/ATen/Config.h" options REGEX "^#define AT_(MKLDNN_ENABLED\\(\\)|PARALLEL_OPENMP) 0")
    foreach(part IN ITEMS "MKLDNN:oneDNN" "OPENMP:OpenMP")
      string(REPLACE ":" ";" part "${part}")
      list(GET part 0 word)
      list(GET part 1 name)
      if(options MATCHES "${word}")
        list(APPEND found ${name})
      endif()
    endforeach()
  endif()
  list(JOIN found " and " found)
  set(${lacks} "${found}" PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  _smooseg_choose_torch(_smooseg_prefix _smooseg_kind)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${_smooseg_kind}:${_smooseg_prefix}")
  return()
endif()

# A choice once made stays for the build folder, whatever Python is active at a later configure.
set(_smooseg_asked "${SMOOSEG_LIBTORCH}|${Torch_DIR}|${CMAKE_PREFIX_PATH}|${SMOOSEG_VENV}")
if(NOT _smooseg_asked STREQUAL SMOOSEG_TORCH_ASKED OR NOT EXISTS "${SMOOSEG_TORCH_PREFIX}/include/torch")
  _smooseg_choose_torch(_smooseg_prefix _smooseg_kind)
  set(SMOOSEG_TORCH_PREFIX "${_smooseg_prefix}" CACHE INTERNAL "Folder of the LibTorch in use")
  set(SMOOSEG_TORCH_KIND "${_smooseg_kind}" CACHE INTERNAL "debian, pypi or folder")
  set(SMOOSEG_TORCH_ASKED "${_smooseg_asked}" CACHE INTERNAL "What SMOOSEG_TORCH_PREFIX was chosen for")
endif()

set(SmoosegTorch_FOUND FALSE)
if(NOT SMOOSEG_TORCH_PREFIX)
  set(SmoosegTorch_NOT_FOUND_MESSAGE "no LibTorch found (SMOOSEG_LIBTORCH is \"${SMOOSEG_LIBTORCH}\"). Run \
cmake/setup.sh of smooseg, which installs Debian's (libtorch-dev), or activate a Python with `pip install torch`, or \
set CMAKE_PREFIX_PATH or SMOOSEG_LIBTORCH to an unpacked LibTorch.")
else()
  _smooseg_torch_version("${SMOOSEG_TORCH_PREFIX}" SmoosegTorch_VERSION)
  if(TARGET smooseg::torch)
    set(SmoosegTorch_FOUND TRUE)
  else()
    _smooseg_make_torch("${SMOOSEG_TORCH_PREFIX}" _smooseg_detail)
    if(TARGET smooseg::torch)
      set(SmoosegTorch_FOUND TRUE)
      message(STATUS
        "LibTorch ${SmoosegTorch_VERSION} (${SMOOSEG_TORCH_KIND}, ${_smooseg_detail}): ${SMOOSEG_TORCH_PREFIX}")
      _smooseg_torch_lacks("${SMOOSEG_TORCH_PREFIX}" _smooseg_lacks)
      if(_smooseg_lacks AND NOT smooseg_FIND_QUIETLY)
        message(WARNING "smooseg: this LibTorch was built without ${_smooseg_lacks}, so convolutions and matrix products \
on the CPU, of which backbones and projector are made, are slower than with another. The losses do not need it. With \
Conan, turn on LibTorch's options for it; Debian's package and that of Python's torch have both.")
      endif()
    else()
      set(SmoosegTorch_NOT_FOUND_MESSAGE "the LibTorch in ${SMOOSEG_TORCH_PREFIX} lacks the library ${_smooseg_detail}.")
    endif()
  endif()
endif()
