# The targets by need. Each one exists as a name for the installed package; its alias gptq::<name> exists in the tree
# only where the dependencies were found.

# Vocabulary, algorithm, packing: no dependency at all, and no machine-specific flag on any of these targets.
add_library(gptq_gptq INTERFACE)
add_library(gptq::gptq ALIAS gptq_gptq)
target_compile_features(gptq_gptq INTERFACE cxx_std_20)
target_include_directories(gptq_gptq INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                               $<INSTALL_INTERFACE:include>)
# CMake 3.25 does not know cuda_std_20, so the option stands here by itself.
target_compile_options(gptq_gptq INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)

# The host backend: Eigen, and OpenMP where it was found.
add_library(gptq_host INTERFACE)
target_link_libraries(gptq_host INTERFACE gptq_gptq Eigen3::Eigen $<TARGET_NAME_IF_EXISTS:OpenMP::OpenMP_CXX>)

# Checkpoints and models.
add_library(gptq_model INTERFACE)
target_link_libraries(gptq_model INTERFACE gptq_gptq nlohmann_json::nlohmann_json)

# Tokenizers and calibration text; tokenizer.model where the sentencepiece library was found.
add_library(gptq_text INTERFACE)
target_link_libraries(gptq_text INTERFACE gptq_gptq nlohmann_json::nlohmann_json PkgConfig::gptq_pcre2
                                          PkgConfig::gptq_utf8proc
                                          $<TARGET_NAME_IF_EXISTS:PkgConfig::gptq_sentencepiece>)
target_compile_definitions(gptq_text INTERFACE $<$<TARGET_EXISTS:PkgConfig::gptq_sentencepiece>:GPTQ_WITH_SENTENCEPIECE=1>)

# The CUDA backend. Before CUDA 13 kernels of two shared libraries are merged unless their symbols are hidden.
add_library(gptq_cuda INTERFACE)
target_link_libraries(gptq_cuda INTERFACE gptq_gptq CUDA::cudart_static CUDA::cublas CUDA::cusolver)
set(before_13 $<VERSION_GREATER_EQUAL:$<CUDA_COMPILER_VERSION>,12.8> $<VERSION_LESS:$<CUDA_COMPILER_VERSION>,13>)
list(JOIN before_13 "," before_13)
target_compile_options(gptq_cuda INTERFACE
  "$<$<AND:$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>,${before_13}>:-static-global-template-stub=true;--device-entity-has-hidden-visibility=true>")

set(gptq_available "")
foreach(component IN LISTS GPTQ_COMPONENTS)
  if(component STREQUAL "cuda")
    include(cmake/cuda.cmake)
    gptq_enable_cuda()  # sets gptq_cuda_missing
  else()
    gptq_find_dependencies(${component} GLOBAL)
  endif()
  if(gptq_${component}_missing)
    message(STATUS "gptq: no gptq::${component}: needs ${gptq_${component}_missing}")
  else()
    add_library(gptq::${component} ALIAS gptq_${component})
    list(APPEND gptq_available ${component})
  endif()
endforeach()
