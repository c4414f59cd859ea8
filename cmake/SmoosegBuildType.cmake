# Warns a project that uses smooseg and chooses no optimisation. Headers are compiled with the flags of their user, and
# the kernels in them take about seven times as long without.

get_property(_smooseg_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT _smooseg_multi_config AND NOT CMAKE_BUILD_TYPE AND NOT "${CMAKE_CXX_FLAGS} " MATCHES "-O[1-9s]|-Ofast")
  message(WARNING "smooseg: CMAKE_BUILD_TYPE is empty, so the compiler does not optimise, and smooseg's losses run \
about seven times slower. Configure with -D CMAKE_BUILD_TYPE=Release.")
endif()
