/// What a rule about a serving engine is made of. A rule is data: its id, the engine, what becomes of a model that
/// breaks it, what to change, and a function that finds the places.
#pragma once

#include <gptq/engines/served_model.hpp>
#include <gptq/io/message.hpp>

#include <array>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Programs that load GPTQ checkpoints.
enum class engine : unsigned char { vllm, sglang, transformers, gptqmodel, exllamav2, llama_cpp, ort_genai, openvino };

/// Their names, in the order of `engine`.
inline constexpr std::array<char const*, 8> engine_names = {"vllm",      "sglang",    "transformers", "gptqmodel",
                                                            "exllamav2", "llama.cpp", "ort-genai",    "openvino"};

constexpr char const* to_string(engine e) { return engine_names[static_cast<std::size_t>(e)]; }

/// The engine of a name, if there is one.
inline std::optional<engine> find_engine(std::string_view name) {
  for (std::size_t e = 0; e < engine_names.size(); ++e)
    if (name == engine_names[e]) return static_cast<engine>(e);
  return std::nullopt;
}

/// What becomes of a model that breaks a rule.
enum class verdict : unsigned char {
  refused,   ///< the engine ends with an error
  wrong,     ///< it loads the model and computes wrong numbers, without a message
  degraded,  ///< it works, slower or with a warning
};

/// The verdict in words.
constexpr char const* to_string(verdict v) {
  return v == verdict::refused ? "refused" : v == verdict::wrong ? "wrong numbers" : "degraded";
}

/// A place where a model breaks a rule.
struct engine_finding {
  std::string rule;
  engine by = engine::vllm;
  verdict result = verdict::refused;
  std::string where;  ///< layer, tensor or file
  std::string what;
  std::string change;  ///< what makes it right, in words
  remedies remedy;     ///< the same as codes, where settings of a run do it
};

/// "vllm: refused: V3: model.layers.0.mlp.up_proj: group_size 16; quantize in groups of 128"
inline std::string to_string(engine_finding const& f) {
  return std::string(to_string(f.by)) + ": " + to_string(f.result) + ": " + f.rule + ": " + detail::printable(f.where) +
         ": " + f.what + "; " + f.change;
}

class rule_report;

/// One rule of an engine, as data.
struct engine_rule {
  std::string_view id;
  engine by;
  verdict result;
  std::string_view must_hold;
  std::string_view change;
  remedies remedy;
  void (*check)(served_model const&, rule_report&);
};

/// Collects the places of one rule.
class rule_report {
 public:
  void add(std::string where, std::string what) {
    found_.push_back({{}, {}, {}, std::move(where), std::move(what), {}, {}});
  }
  /// The same with another verdict than the rule's.
  void add(verdict v, std::string where, std::string what) {
    add(std::move(where), std::move(what));
    found_.back().result = v;
    special_.push_back(found_.size() - 1);
  }
  /// Completes the findings with what the rule says.
  [[nodiscard]] std::vector<engine_finding> take(engine_rule const& rule) {
    for (std::size_t i = 0, s = 0; i < found_.size(); ++i) {
      engine_finding& f = found_[i];
      f.rule = rule.id;
      f.by = rule.by;
      f.change = rule.change;
      f.remedy = rule.remedy;
      if (s < special_.size() && special_[s] == i)
        ++s;
      else
        f.result = rule.result;
    }
    return std::move(found_);
  }

 private:
  std::vector<engine_finding> found_;
  std::vector<std::size_t> special_;
};

namespace detail {

template <class F>
void each_quantized(served_model const& m, F&& f) {
  for (served_linear const& l : m.linears)
    if (l.quantized) f(l);
}

/// Float layers where engines look for quantized ones; routers of experts are never quantized.
template <class F>
void each_float_in_block(served_model const& m, F&& f) {
  for (served_linear const& l : m.linears)
    if (!l.quantized && in_block(l.name) && !ends_with_name(l.name, "mlp.gate") && !ends_with_name(l.name, "router"))
      f(l);
}

/// Calls f(fused, first shard, other shard) for the shards of each fused layer after its first.
template <class F>
void each_sibling(served_model const& m, F&& f) {
  for (served_linear const& a : m.linears) {
    std::string_view block;
    fused_layer const* const fused = fused_layer_of(a.name, &block);
    if (!fused || !ends_with_name(a.name, fused->parts[0])) continue;
    for (std::size_t i = 1; i < fused->parts.size(); ++i)
      if (!fused->parts[i].empty())
        if (served_linear const* const b = m.find(std::string(block) + std::string(fused->parts[i]))) f(*fused, a, *b);
  }
}

/// Outputs of the layer that an engine builds: of all shards together where it fuses.
inline index_t fused_outputs(served_model const& m, served_linear const& l) {
  std::string_view block;
  fused_layer const* const fused = fused_layer_of(l.name, &block);
  if (!fused) return l.outputs;
  index_t sum = 0;
  for (std::string_view const part : fused->parts)
    if (!part.empty())
      if (served_linear const* const s = m.find(std::string(block) + std::string(part))) sum += s->outputs;
  return sum;
}

/// Whether tensor parallelism cuts a layer along its inputs.
inline bool row_parallel(std::string_view name) {
  for (std::string_view const end :
       {"o_proj", "down_proj", "dense", "out_proj", "c_proj", "fc2", "dense_4h_to_h", "w2"})
    if (ends_with_name(name, end)) return true;
  return false;
}

/// Inputs and outputs of a layer on one device; nothing where they can't be divided.
struct partition {
  index_t inputs = 0;
  index_t outputs = 0;
  bool divided = true;
};
inline partition partition_of(served_model const& m, served_linear const& l) {
  partition p{l.inputs, fused_outputs(m, l), true};
  index_t& size = row_parallel(l.name) ? p.inputs : p.outputs;
  p.divided = size % m.tensor_parallel == 0;
  size /= m.tensor_parallel;
  return p;
}

inline bool one_of(index_t x, std::initializer_list<int> list) {
  for (int const y : list)
    if (x == y) return true;
  return false;
}

inline std::string times(index_t x, char const* what) { return std::to_string(x) + " " + what; }

inline std::string describe(layer_format const& s) {
  return std::to_string(s.bits) + " bit g" + std::to_string(s.group_size) + (s.sym ? " sym" : " asym");
}

inline bool is_compressed(served_model const& m) {
  return m.quantization.format == checkpoint_format::compressed_tensors;
}

}  // namespace detail
}  // namespace v0
}  // namespace gptq
