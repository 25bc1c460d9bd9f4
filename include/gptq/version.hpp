/// The version of the library; CMakeLists.txt reads it from here.
#pragma once

#define GPTQ_VERSION_MAJOR 0
#define GPTQ_VERSION_MINOR 1
#define GPTQ_VERSION_PATCH 0
#define GPTQ_VERSION "0.1.0"
