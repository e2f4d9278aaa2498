# The GPU backend: libraries that the program opens at run time (device/gpu.cpp), never linked to it nor to libcuda. NCCL has
# one of its own, since one rank does without.
file(GLOB backend_sources CONFIGURE_DEPENDS device/cuda/*.cu device/cuda/*.cpp)
add_library(strata_cuda SHARED ${backend_sources})
target_link_libraries(strata_cuda PRIVATE CUDA::cudart CUDA::cublasLt)
# Multiplications and additions are fused where the source says so and nowhere else, as on the CPU: the codes of both have
# the same bits.
target_compile_options(strata_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>)
# A kernel that spills registers to local memory does not compile. Builds of developers and of CI list the registers.
target_compile_options(strata_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=--warn-on-spills,--warning-as-error
  $<$<BOOL:${STRATA_WERROR}>:-Xptxas=-v -Werror=all-warnings>>)
set(backend_libraries strata_cuda)
if(STRATA_HAS_NCCL)
  add_library(strata_cuda_nccl SHARED comm/nccl.cpp device/cuda/runtime.cpp)
  target_include_directories(strata_cuda_nccl SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
  target_link_libraries(strata_cuda_nccl PRIVATE CUDA::cudart ${NCCL_LIBRARY})
  list(APPEND backend_libraries strata_cuda_nccl)
endif()
foreach(library IN LISTS backend_libraries)
  target_include_directories(${library} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(${library} PRIVATE STRATA_VERSION="${PROJECT_VERSION}")
  target_link_libraries(${library} PRIVATE strata strata_flags fmt::fmt spdlog::spdlog)
  # Beside the program's library; the toolkit's where it was when this was built, should the loader not know them.
  set_target_properties(${library} PROPERTIES INSTALL_RPATH "$ORIGIN" INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS ${library} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endforeach()
