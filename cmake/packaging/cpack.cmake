# `cpack` in a build folder makes a Debian package (headers and CMake's files, for every architecture) and an archive of
# the headers alone.

set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_NAME smooseg)
set(CPACK_PACKAGE_VERSION "${PROJECT_VERSION}")
set(CPACK_PACKAGE_VENDOR "the smooseg authors")
set(CPACK_PACKAGE_CONTACT "the smooseg authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION} (C++ headers)")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_VERBATIM_VARIABLES TRUE)
set(CPACK_PROJECT_CONFIG_FILE "${CMAKE_CURRENT_LIST_DIR}/generators.cmake")

set(CPACK_DEBIAN_PACKAGE_NAME libsmooseg-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_DEPENDS libeigen3-dev)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libtorch-dev, libopenblas0-openmp")  # or the LibTorch of Python's torch
include(CPack)
