# What of c10d several processes may talk through: its store, without which LibTorch can be built, and its process groups,
# which want the headers of Gloo (Debian's libgloo-dev) or of NCCL and the CUDA runtime. LibTorch comes without these, but
# Python packages that it depends on have NCCL's and CUDA's.

include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES smooseg::torch)
check_cxx_source_compiles("
#include <string>
namespace c10d {
struct TCPStoreOptions;
class TCPStore {
 public:
  explicit TCPStore(std::string host, const TCPStoreOptions& options);
  ~TCPStore();
};
}
int main(int argc, char** argv) {
  if (argc > 1) c10d::TCPStore(argv[0], *reinterpret_cast<c10d::TCPStoreOptions*>(argv));
}" SMOOSEG_TORCH_HAS_C10D)

# Has support/process_group.cpp make use of a process group, if a program that includes its header can be linked.
function(smooseg_use_process_group name)
  string(TOUPPER "USE_C10D_${name}" macro)
  set(CMAKE_REQUIRED_DEFINITIONS "-D${macro}")
  set(CMAKE_REQUIRED_INCLUDES ${ARGN})
  check_cxx_source_compiles("
#include <torch/csrc/distributed/c10d/ProcessGroup${name}.hpp>
int main(int argc, char**) {
  if (argc > 1) c10::make_intrusive<c10d::ProcessGroup${name}>(c10::intrusive_ptr<c10d::Store>(), 0, 1);
}" SMOOSEG_TORCH_HAS_${name})
  if(SMOOSEG_TORCH_HAS_${name})
    set_property(SOURCE support/process_group.cpp APPEND PROPERTY COMPILE_DEFINITIONS ${macro})
    target_include_directories(smooseg_app SYSTEM PRIVATE ${ARGN})
  endif()
endfunction()

if(SMOOSEG_TORCH_HAS_C10D)
  set_property(SOURCE support/key_value_store.cpp PROPERTY COMPILE_DEFINITIONS SMOOSEG_WITH_C10D)
  find_path(SMOOSEG_GLOO_INCLUDE_DIR gloo/rendezvous/store.h)
  if(SMOOSEG_GLOO_INCLUDE_DIR)
    smooseg_use_process_group(Gloo "${SMOOSEG_GLOO_INCLUDE_DIR}")
  endif()
  file(GLOB beside "${SMOOSEG_TORCH_PREFIX}/../nvidia/*/include")
  find_path(SMOOSEG_NCCL_INCLUDE_DIR nccl.h HINTS ${beside} PATHS /usr/local/cuda/include)
  find_path(SMOOSEG_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${beside} PATHS /usr/local/cuda/include)
  if(SMOOSEG_NCCL_INCLUDE_DIR AND SMOOSEG_CUDA_INCLUDE_DIR AND EXISTS "${SMOOSEG_TORCH_PREFIX}/lib/libtorch_cuda.so")
    smooseg_use_process_group(NCCL "${SMOOSEG_NCCL_INCLUDE_DIR}" "${SMOOSEG_CUDA_INCLUDE_DIR}")
  endif()
  mark_as_advanced(SMOOSEG_GLOO_INCLUDE_DIR SMOOSEG_NCCL_INCLUDE_DIR SMOOSEG_CUDA_INCLUDE_DIR)
endif()
unset(CMAKE_REQUIRED_LIBRARIES)
