# smooseg::eigen where there is no LibTorch: the library is configured without one, installed, and used by find_package and
# by add_subdirectory.

cmake_minimum_required(VERSION 3.20)
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")

file(REMOVE_RECURSE "${WORK_DIR}")
file(MAKE_DIRECTORY "${WORK_DIR}/empty")
set(common -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DSMOOSEG_LIBTORCH=${WORK_DIR}/empty"
  -DCMAKE_BUILD_TYPE=Debug)

run_for(output "${CMAKE_COMMAND}" ${common} -S "${SOURCE_DIR}" -B "${WORK_DIR}/library")
check_contains("${output}" "no LibTorch found")
check_contains("${output}" "Without LibTorch smooseg::eigen alone can be linked")
run("${CMAKE_COMMAND}" --install "${WORK_DIR}/library" --prefix "${WORK_DIR}/prefix")
set(LIBTORCH "")
check_relocatable("${WORK_DIR}/prefix")
file(RENAME "${WORK_DIR}/prefix" "${WORK_DIR}/moved")

foreach(way IN ITEMS find_package add_subdirectory)
  run("${CMAKE_COMMAND}" ${common} -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK_DIR}/${way}" -DWAY=${way}
    -DCOMPONENTS=eigen "-DCMAKE_PREFIX_PATH=${WORK_DIR}/moved" "-DSMOOSEG_SOURCE_DIR=${SOURCE_DIR}")
  run("${CMAKE_COMMAND}" --build "${WORK_DIR}/${way}")
  run("${WORK_DIR}/${way}/consumer")
endforeach()

# Whoever needs LibTorch is told what is missing.
foreach(components IN ITEMS "" "loss" "smooseg")
  execute_process(COMMAND "${CMAKE_COMMAND}" ${common} -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK_DIR}/refused"
    -DWAY=find_package "-DCOMPONENTS=${components}" "-DCMAKE_PREFIX_PATH=${WORK_DIR}/moved"
    RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE messages)
  if(status EQUAL 0)
    message(FATAL_ERROR "found without LibTorch: '${components}'")
  endif()
  check_contains("${messages}" "no LibTorch found")
endforeach()
