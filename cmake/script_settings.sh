# What the scripts share; sourced with the repository's root as the working directory.
jobs=${GPTQ_JOBS:-$(nproc)}
werror=OFF
if [ "${CI:-}" = true ]; then
  werror=ON
  export GPTQ_REQUIRE_SHARED_DATA=1  # tests fail, rather than skip, where ../shared is missing
fi
export CLICOLOR_FORCE=0
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
fi
