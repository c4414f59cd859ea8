# The packages that cpack makes, unpacked and used; and the recipes of others say the same version.

cmake_minimum_required(VERSION 3.20)
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")

file(REMOVE_RECURSE "${WORK_DIR}")
file(MAKE_DIRECTORY "${WORK_DIR}/empty")
set(common -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_BUILD_TYPE=Debug)
run("${CMAKE_COMMAND}" ${common} -S "${SOURCE_DIR}" -B "${WORK_DIR}/library" "-DSMOOSEG_LIBTORCH=${LIBTORCH}")
get_filename_component(tools "${CMAKE_COMMAND}" DIRECTORY)
run("${CMAKE_COMMAND}" -E chdir "${WORK_DIR}/library" "${tools}/cpack" -B "${WORK_DIR}/packages")

# The archive: headers and licence, to be used with -I.
set(archive "${WORK_DIR}/packages/smooseg-${VERSION}-include.tar.gz")
file(ARCHIVE_EXTRACT INPUT "${archive}" DESTINATION "${WORK_DIR}/archive")
set(headers "${WORK_DIR}/archive/smooseg-${VERSION}-include/include")
file(GLOB_RECURSE packed RELATIVE "${headers}" "${headers}/*.hpp")
file(GLOB_RECURSE expected RELATIVE "${SOURCE_DIR}/include" "${SOURCE_DIR}/include/*.hpp")
if(NOT packed STREQUAL expected)
  message(FATAL_ERROR "the archive's headers are not those of include/")
endif()
file(GLOB_RECURSE others RELATIVE "${WORK_DIR}/archive" "${WORK_DIR}/archive/*")
list(FILTER others EXCLUDE REGEX "\\.hpp$")
if(NOT others MATCHES "^[^;]*/LICENSE$")
  message(FATAL_ERROR "expected a licence beside the headers, found: ${others}")
endif()
run("${COMPILER}" -std=c++17 "-I${headers}" "-I${EIGEN}" "${CMAKE_CURRENT_LIST_DIR}/main_eigen.cpp"
  -o "${WORK_DIR}/archive/consumer")
run("${WORK_DIR}/archive/consumer")

# The Debian package, where there are Debian's tools.
find_program(DPKG_DEB dpkg-deb)
if(DPKG_DEB)
  set(package "${WORK_DIR}/packages/libsmooseg-dev_${VERSION}_all.deb")
  run_for(fields "${DPKG_DEB}" --field "${package}")
  foreach(field IN ITEMS "Package: libsmooseg-dev" "Architecture: all" "Depends: libeigen3-dev" "Recommends: libtorch-dev")
    check_contains("${fields}" "${field}")
  endforeach()
  run("${DPKG_DEB}" --extract "${package}" "${WORK_DIR}/debian")
  check_relocatable("${WORK_DIR}/debian")
  run("${CMAKE_COMMAND}" ${common} -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK_DIR}/consumer" -DWAY=find_package
    -DCOMPONENTS=eigen "-DSMOOSEG_LIBTORCH=${WORK_DIR}/empty" "-DCMAKE_PREFIX_PATH=${WORK_DIR}/debian/usr")
  run("${CMAKE_COMMAND}" --build "${WORK_DIR}/consumer")
  run("${WORK_DIR}/consumer/consumer")
endif()

file(READ "${SOURCE_DIR}/cmake/packaging/vcpkg/vcpkg.json" port)
string(JSON version GET "${port}" version)
if(NOT version STREQUAL VERSION)
  message(FATAL_ERROR "vcpkg.json has the version ${version}, version.hpp ${VERSION}")
endif()
