// interop_logits <model folder> <ids: numbers in a text file> <out: float32 [tokens x vocabulary]>
#include <gptq/backend/host_model.hpp>
#include <gptq/run/evaluate.hpp>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    std::ifstream in(argv[2]);
    std::vector<std::int32_t> ids;
    for (std::int32_t id = 0; in >> id;) ids.push_back(id);
    gptq::host_model_backend b;
    gptq::model_weights const weights(argv[1]);
    gptq::activations<gptq::host_model_backend> stream(b, weights.config(), {ids}, b.adopt<float>(weights.embedding()),
                                                       {});
    for (gptq::index_t i = 0; i < weights.config().blocks; ++i) stream.run(gptq::load_layer(b, weights, i));
    gptq::lm_head<gptq::host_model_backend> head(b, weights);
    auto const logits = head.logits(stream.hidden_states());
    std::ofstream out(argv[3], std::ios::binary);
    for (gptq::index_t r = 0; r < logits.rows; ++r)
      out.write(reinterpret_cast<char const*>(logits.row(r)), logits.cols * std::streamsize(sizeof(float)));
    return out.flush() ? 0 : 1;
  } catch (std::exception const& e) {
    std::cerr << e.what() << '\n';
    return 1;
  }
}
