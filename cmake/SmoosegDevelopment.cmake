# What our own tests, examples and benchmarks are compiled with; nothing of it reaches users of the library.

option(SMOOSEG_WARNINGS_AS_ERRORS "Stop at a compiler warning in our own code" OFF)
option(SMOOSEG_SANITIZE "Compile our tests and examples with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(SMOOSEG_FUZZ "Build tests/fuzz, which needs Clang" OFF)

# Objects are taken from ccache where it is installed. CCACHE_BASEDIR lets build folders share them.
find_program(SMOOSEG_CCACHE ccache)
mark_as_advanced(SMOOSEG_CCACHE)
if(SMOOSEG_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}"
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime "${SMOOSEG_CCACHE}")
endif()

# Warnings; sanitizers if asked for.
function(smooseg_own_target target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion)
  if(SMOOSEG_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -fpch-preprocess)  # lets ccache see through precompiled headers
    if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
      # False alarms about std::string in C++20 with optimisation (GCC bugs 105329 and 105651).
      target_compile_options(${target} PRIVATE
        -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread)
    endif()
  elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Wno-sign-conversion)  # which GCC's -Wconversion does not include
    target_compile_options(${target} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")  # the same for ccache
  endif()
  if(SMOOSEG_SANITIZE)
    # Without the checks of pointers that AddressSanitizer makes as well: they took as long to compile as all the rest.
    set(sanitizers -fsanitize=address,undefined -fno-sanitize=null,alignment,pointer-overflow,vptr
      -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_compile_options(${target} PRIVATE ${sanitizers} -g1 -O1)
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")  # memory is checked by calls, not in place: half of the code
      target_compile_options(${target} PRIVATE "SHELL:-mllvm -asan-instrumentation-with-call-threshold=0")
    endif()
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # with sanitizers a source of false alarms, as its documentation says
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
    target_link_options(${target} PRIVATE ${sanitizers})
  endif()
endfunction()

# As above, with LibTorch's headers precompiled, once for all targets: 8 s saved for each file. More headers would not
# pay: loading them takes time too.
function(smooseg_own_target_with_pch target)
  smooseg_own_target(${target})
  if(NOT TARGET smooseg_pch)
    set(source "${PROJECT_BINARY_DIR}/smooseg_pch.cpp")
    file(CONFIGURE OUTPUT "${source}" CONTENT "// Carries the precompiled headers.\n")
    add_library(smooseg_pch OBJECT "${source}")
    target_link_libraries(smooseg_pch PRIVATE smooseg::smooseg)
    smooseg_own_target(smooseg_pch)
    target_precompile_headers(smooseg_pch PRIVATE
      <ATen/Parallel.h> <torch/autograd.h> <torch/nn/cloneable.h> <torch/nn/modules/conv.h> <torch/nn/pimpl.h>
      <torch/optim/adam.h> <torch/types.h> <filesystem> <fstream> <map> <optional> <sstream> <string> <vector>)
  endif()
  target_precompile_headers(${target} REUSE_FROM smooseg_pch)
endfunction()
