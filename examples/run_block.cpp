// Runs one decoder block of a quantized model from the mapped file; examples/run_block.hpp is the engine.
//   gptq quantize examples/models/bard-qwen2-1m <folder> --calibration examples/models/bard-qwen2-1m/calibration.txt
//   run_block <folder>/model.safetensors
#include "run_block.hpp"

#include <Eigen/Core>

#include <cstdio>
#include <exception>

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: run_block <model.safetensors of the bundled model, quantized to 4 bits>\n");
    return 2;
  }
  engine::safetensors const file(argv[1]);
  engine::model_shape const shape;
  engine::decoder_block const block(file, "model.layers.0.", shape);
  engine::matrix const h = engine::matrix::Random(16, shape.heads * shape.head_dim);
  engine::matrix const after = block(h);
  std::printf("16 tokens: |h| %.3f before the block, %.3f after it\n", static_cast<double>(h.norm()),
              static_cast<double>(after.norm()));
  return after.allFinite() ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "run_block: %s\n", e.what());
  return 1;
}
