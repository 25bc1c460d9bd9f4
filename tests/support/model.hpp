/// What the model tests share: token ids, and model folders made by hand.
#pragma once

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/golden.hpp"
#include "support/shared.hpp"
#include "support/temp_dir.hpp"

#include <gptq/backend/host/forward.hpp>
#include <gptq/io/safetensors.hpp>
#include <gptq/model/weights.hpp>
#include <gptq/run/activations.hpp>
#include <gptq/run/evaluate.hpp>
#include <gptq/text/tokenizer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace test {

/// Relative, of a perplexity that is stated with four digits.
inline constexpr double perplexity_bound = 5e-4;

template <class T>
float float_of(T x) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<float>(x);
  else
    return gptq::to_float(x);
}

/// The logits of all tokens, model and settings as given; `change` may spoil a block after it was loaded.
template <class Backend, class Change>
gptq::matrix<float> logits_of(Backend& b, gptq::model_weights const& weights, samples const& tokens, Change&& change) {
  using activation = typename Backend::activation;
  auto const embedding = b.template adopt<activation>(weights.embedding());
  gptq::activations<Backend> stream(b, weights.config(), weights.layers(), tokens, embedding);
  for (gptq::index_t i = 0; i < weights.config().blocks; ++i) {
    auto block = gptq::load_layer(b, weights, i);
    change(block);
    stream.run(block);
  }
  gptq::lm_head<Backend> head(b, weights);
  auto const logits = head.logits(stream.hidden_states());
  gptq::matrix<activation> host(logits.rows, logits.cols);
  b.download(logits, host.view());
  gptq::matrix<float> out(logits.rows, logits.cols);
  std::transform(host.data(), host.data() + host.size(), out.data(), [](activation x) { return float_of(x); });
  return out;
}

struct unchanged {
  template <class Block>
  void operator()(Block&) const {}
};

/// max |difference| from the golden logits.
template <class Backend, class Change = unchanged>
double golden_error(Backend& b, gptq::model_weights const& weights, golden const& expected, Change&& change = {}) {
  auto const logits = logits_of(b, weights, expected.ids, change);
  double most = 0;
  gptq::index_t row = 0;
  for (std::size_t s = 0; s < expected.ids.size(); ++s)
    for (std::int32_t const p : expected.positions) {
      auto const* const ours = logits.row(static_cast<gptq::index_t>(s * expected.ids[s].size()) + p);
      auto const* const theirs = expected.logits.row(row++);
      for (gptq::index_t v = 0; v < logits.cols(); ++v) {
        double const d = std::abs(double(ours[v]) - double(theirs[v]));
        if (!(d <= most)) most = d;
      }
    }
  return most;
}

inline std::vector<std::int32_t> ids_of(std::filesystem::path const& model, std::filesystem::path const& text) {
  return gptq::tokenizer::from_file(model / "tokenizer.json").encode(read_text(text));
}

/// A small random Qwen2 folder, to be changed by a test before it is written. Two blocks, hidden 16, two heads of 8.
struct tiny_model {
  gptq::json config = gptq::json::parse(R"({"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "max_position_embeddings": 64})");
  std::vector<raw_tensor> tensors;

  tiny_model() {
    add("model.embed_tokens.weight", {32, 16});
    add("model.norm.weight", {16});
    add("lm_head.weight", {32, 16});
    for (std::string const block : {"model.layers.0.", "model.layers.1."}) {
      add(block + "input_layernorm.weight", {16});
      add(block + "post_attention_layernorm.weight", {16});
      add(block + "self_attn.q_proj.weight", {16, 16});
      add(block + "self_attn.q_proj.bias", {16});
      add(block + "self_attn.k_proj.weight", {8, 16});
      add(block + "self_attn.k_proj.bias", {8});
      add(block + "self_attn.v_proj.weight", {8, 16});
      add(block + "self_attn.v_proj.bias", {8});
      add(block + "self_attn.o_proj.weight", {16, 16});
      add(block + "mlp.gate_proj.weight", {24, 16});
      add(block + "mlp.up_proj.weight", {24, 16});
      add(block + "mlp.down_proj.weight", {16, 24});
    }
  }

  raw_tensor& at(std::string const& name) {
    auto const found = std::find_if(tensors.begin(), tensors.end(), [&](auto const& t) { return t.name == name; });
    REQUIRE(found != tensors.end());
    return *found;
  }
  void remove(std::string const& name) {
    tensors.erase(std::remove_if(tensors.begin(), tensors.end(), [&](auto const& t) { return t.name == name; }),
                  tensors.end());
  }
  void add(std::string const& name, std::vector<std::int64_t> const& shape) {
    std::size_t count = 1;
    for (std::int64_t const n : shape) count *= static_cast<std::size_t>(n);
    std::normal_distribution<float> normal(shape.size() == 1 ? 1.0f : 0.0f, 0.3f);
    std::vector<float> values(count);
    for (float& v : values) v = normal(random_);
    tensors.push_back({name, "F32", shape, bytes_of(values)});
  }

  /// Writes the folder and returns its path.
  std::filesystem::path write(temp_dir const& dir, std::string const& name = "model") const {
    dir.write(name + "/config.json", config.dump());
    dir.write(name + "/model.safetensors", safetensors_bytes(tensors));
    return dir / name;
  }

 private:
  std::mt19937 random_{7};
};

inline samples random_samples(std::vector<std::size_t> const& lengths, std::int32_t vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  samples out;
  for (std::size_t const n : lengths) {
    out.emplace_back();
    for (std::size_t i = 0; i < n; ++i)
      out.back().push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary)));
  }
  return out;
}

}  // namespace test
