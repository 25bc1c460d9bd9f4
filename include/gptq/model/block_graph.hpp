/// A decoder layer as data: operations, the values that pass between them, and the tensors that they need. Whoever runs,
/// quantizes or plans a layer walks its graph and knows no family.
///
///   graph_builder g(hidden);                                   // g.input(): the hidden states before the layer
///   int x = g.norm(g.input(), {"input_layernorm.weight", {hidden}});
///   int y = g.linear(x, {.linears = {{"q_proj", 0, 64, hidden, true}, …}});
///   …
///   block_graph layer = g.finish(h);                           // validated: wiring and shapes
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_backend.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// What a node does. `attention` includes the norms of each head's query and key, and the rotation. The second half is
/// what layers with experts, latent attention and gated delta nets are made of: such graphs can be built and validated,
/// and a backend that has no such operation refuses to run them.
enum class operation : unsigned char {
  norm,              ///< y = RMS norm of x, times a weight
  linear,            ///< y = x·Wᵀ + bias, a linear_group
  attention,         ///< y = attention of the queries, keys and values that x holds
  gated_activation,  ///< y = f(gate)·up; x holds gate | up
  add,               ///< y = x + z
  slice,             ///< some columns of x
  multiply_sigmoid,  ///< y = x · σ(gate); a gate of width 1 serves all columns
  latent_attention,  ///< y = attention of queries, latent keys and values, and the rotated part of the keys
  convolution,       ///< y = SiLU of a causal convolution along the tokens, each column by itself
  delta_rule,        ///< y = gated delta rule over the tokens, of queries, keys and values, β and decay
  route,             ///< for each token the experts that it goes to, and their weights
  combine            ///< y = sum over a token's experts of weight times their result
};

/// The name that messages use.
constexpr char const* to_string(operation o) {
  constexpr char const* names[] = {"norm",  "linear",           "attention",        "gated_activation", "add",
                                   "slice", "multiply_sigmoid", "latent_attention", "convolution",      "delta_rule",
                                   "route", "combine"};
  return names[static_cast<unsigned char>(o)];
}

/// Which rows a value has: one for each token, one for each pair of token and expert, or a routing table.
enum class value_rows : unsigned char { tokens, routed, table };

/// A matrix that passes between nodes: its features, and what its rows are.
struct graph_value {
  index_t width = 0;  ///< features
  value_rows rows = value_rows::tokens;
};

/// A tensor that is no linear's: a norm's weight, a convolution. Named as the checkpoint does, ".weight" included.
struct graph_tensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// One linear: rows [first_row, first_row + rows) of its group's stacked matrix.
struct linear_info {
  std::string name;  ///< of the module: "model.layers.0.self_attn.q_proj"; its tensors are name + ".weight", ".bias"
  index_t first_row = 0;
  index_t rows = 0;
  index_t inputs = 0;
  bool has_bias = false;
};

/// Linears that read one activation: they share a Hessian, are solved as one stack and must be quantized alike.
struct linear_group {
  std::vector<linear_info> linears;
  index_t expert = -1;                ///< only the tokens that are routed to it reach the group; -1: all tokens do
  std::string_view served_as = {};    ///< below the block, where engines know it under another name
  std::string_view stays_float = {};  ///< why it is not quantized unless asked for; empty: it is
  std::string_view engines = {};      ///< those that can't load it quantized

  [[nodiscard]] index_t inputs() const { return linears.empty() ? 0 : linears.front().inputs; }
  [[nodiscard]] index_t outputs() const { return linears.empty() ? 0 : linears.back().first_row + linears.back().rows; }
};

/// One operation: what it reads, which tensors it needs, and the value that it writes.
struct graph_node {
  operation op = operation::add;
  std::vector<int> reads;         ///< values; of `add` the first is what the second is added to
  int writes = 0;                 ///< a value
  int group = -1;                 ///< linear: the first of its groups, one for each expert where x is routed
  std::vector<int> tensors = {};  ///< norm: the weight; attention: weights of the query and key norms, if it has them
  index_t first_column = 0;       ///< slice
};

/// Nodes are in the order in which they can run. Made by a graph_builder.
struct block_graph {
  std::vector<graph_value> values;
  std::vector<graph_tensor> tensors;
  std::vector<linear_group> groups;  ///< in the order in which they are reached
  std::vector<graph_node> nodes;
  attention_shape attention;  ///< of the attention node, if there is one
  int input = 0;              ///< hidden states before the layer
  int output = 0;             ///< and behind it

  /// The node that writes a value, or null for the input.
  [[nodiscard]] graph_node const* writer(int value) const {
    for (graph_node const& n : nodes)
      if (n.writes == value) return &n;
    return nullptr;
  }
  /// The node of a group.
  [[nodiscard]] graph_node const& node_of(std::size_t group) const {
    graph_node const* found = nullptr;
    for (graph_node const& n : nodes)
      if (n.op == operation::linear && n.group <= static_cast<int>(group)) found = &n;
    return *found;
  }
  /// How many nodes read a value.
  [[nodiscard]] int readers(int value) const {
    int count = 0;
    for (graph_node const& n : nodes)
      for (int const r : n.reads) count += r == value;
    return count;
  }
  /// Whether what a group writes is added to hidden states as it is: then the group can make up for what those moved.
  [[nodiscard]] bool adds_to_hidden_states(std::size_t group) const {
    int const value = node_of(group).writes;
    for (graph_node const& n : nodes) {
      if (n.op != operation::add || n.reads[1] != value) continue;
      graph_node const* const other = writer(n.reads[0]);
      return !other || other->op == operation::add;
    }
    return false;
  }
};

namespace detail {

/// Checks one graph; every failure names the node.
class graph_check {
 public:
  explicit graph_check(block_graph const& g) : g_(g), written_(g.values.size()), read_(g.values.size()) {}

  void run() {
    if (g_.values.empty()) fail("holds no value");
    mark(g_.input);
    for (; node_ < g_.nodes.size(); ++node_) {
      graph_node const& n = g_.nodes[node_];
      for (int const r : n.reads) {
        if (!known(r) || !written_[std::size_t(r)])
          fail("reads value " + std::to_string(r) + ", which nobody wrote yet");
        read_[std::size_t(r)] = true;
      }
      for (int const t : n.tensors)
        if (t < 0 || t >= static_cast<int>(g_.tensors.size())) fail("names a tensor that is not there");
      if (!known(n.writes)) fail("writes a value that is not there");
      check_shapes(n);
      mark(n.writes);
    }
    if (!known(g_.output) || !written_[std::size_t(g_.output)]) fail("does not write its output");
    if (width(g_.output) != width(g_.input)) fail("changes the width of the hidden states");
    read_[std::size_t(g_.output)] = true;
    for (std::size_t v = 0; v < read_.size(); ++v)
      if (!read_[v]) fail("writes value " + std::to_string(v) + ", which nobody reads");
  }

 private:
  [[noreturn]] void fail(std::string const& why) const {
    std::string const where = node_ < g_.nodes.size()
                                  ? "node " + std::to_string(node_) + " (" + to_string(g_.nodes[node_].op) + ") "
                                  : std::string();
    throw shape_error("block graph: " + where + why);
  }
  void need(bool holds, char const* rule) const {
    if (!holds) fail(std::string("needs ") + rule);
  }
  [[nodiscard]] bool known(int v) const { return v >= 0 && v < static_cast<int>(g_.values.size()); }
  [[nodiscard]] index_t width(int v) const { return g_.values[std::size_t(v)].width; }
  [[nodiscard]] value_rows rows(int v) const { return g_.values[std::size_t(v)].rows; }
  [[nodiscard]] index_t elements(int tensor) const {
    index_t n = 1;
    for (std::int64_t const d : g_.tensors[std::size_t(tensor)].shape) n *= d;
    return n;
  }
  void mark(int v) {
    if (!known(v) || written_[std::size_t(v)]) fail("writes value " + std::to_string(v) + " again");
    if (width(v) < 1) fail("writes a value without features");
    written_[std::size_t(v)] = true;
  }

  void check_linear(graph_node const& n) const {
    int const x = n.reads[0];
    need(n.group >= 0 && n.group < static_cast<int>(g_.groups.size()), "a group");
    bool const routed = g_.groups[std::size_t(n.group)].expert >= 0;
    need(routed == (rows(n.writes) == value_rows::routed), "routed rows where it has experts, and only there");
    for (std::size_t i = std::size_t(n.group); i < g_.groups.size(); ++i) {
      linear_group const& group = g_.groups[i];
      if (i > std::size_t(n.group) && (!routed || group.expert != static_cast<index_t>(i) - n.group)) break;
      index_t row = 0;
      need(!group.linears.empty(), "linears");
      for (linear_info const& l : group.linears) {
        need(l.inputs == width(x), "linears as wide as what they read");
        need(l.first_row == row && l.rows > 0, "linears one after the other");
        row += l.rows;
      }
      need(row == width(n.writes), "a result as wide as its linears together");
    }
  }

  void check_shapes(graph_node const& n) const {
    auto const count = [&](std::size_t reads, std::size_t tensors) {
      need(n.reads.size() == reads, "another number of values");
      need(n.tensors.size() == tensors, "another number of tensors");
    };
    auto const same_rows = [&] { need(rows(n.reads[0]) == rows(n.writes), "the same rows in and out"); };
    switch (n.op) {
      case operation::norm:  // one weight for all columns, or for each of several heads
        count(1, 1);
        same_rows();
        need(width(n.reads[0]) == width(n.writes) && width(n.writes) % elements(n.tensors[0]) == 0, "equal widths");
        break;
      case operation::linear:
        need(n.reads.size() == 1 || n.reads.size() == 2, "an input, and a routing table or none");
        if (n.reads.size() == 2) need(rows(n.reads[1]) == value_rows::table, "a routing table");
        check_linear(n);
        break;
      case operation::attention: {
        need(n.reads.size() == 1 && n.tensors.size() != 1 && n.tensors.size() <= 2, "one input, both norms or none");
        attention_shape const& a = g_.attention;
        auto const fits = [&](head_layout l, index_t heads) {
          return l.first >= 0 && l.first + (heads - 1) * l.stride + a.head_dim <= width(n.reads[0]);
        };
        need(fits(a.query, a.heads) && fits(a.key, a.kv_heads) && fits(a.value, a.kv_heads), "heads inside its input");
        need(a.kv_heads > 0 && a.heads % a.kv_heads == 0, "as many query heads for each key head");
        need(width(n.writes) == a.heads * a.head_dim, "a result of all heads");
        for (int const t : n.tensors) need(elements(t) == a.head_dim, "norms of a head");
        break;
      }
      case operation::gated_activation:
        count(1, 0);
        same_rows();
        need(width(n.reads[0]) == 2 * width(n.writes), "gate and up side by side");
        break;
      case operation::add:
        count(2, 0);
        same_rows();
        need(width(n.reads[0]) == width(n.writes) && width(n.reads[1]) == width(n.writes), "equal widths");
        break;
      case operation::slice:
        count(1, 0);
        same_rows();
        need(n.first_column >= 0 && n.first_column + width(n.writes) <= width(n.reads[0]), "columns of its input");
        break;
      case operation::multiply_sigmoid:
        count(2, 0);
        same_rows();
        need(width(n.reads[0]) == width(n.writes), "equal widths");
        need(width(n.reads[1]) == 1 || width(n.reads[1]) == width(n.writes), "a gate for each column, or one");
        break;
      case operation::latent_attention: count(3, 0); break;  // its own shape is the operation's
      case operation::convolution:
        count(1, 1);
        need(width(n.reads[0]) == width(n.writes) && g_.tensors[std::size_t(n.tensors[0])].shape[0] == width(n.writes),
             "a filter for each column");
        break;
      case operation::delta_rule:  // queries, keys and values; β; decay
        count(3, 2);
        need(elements(n.tensors[0]) == width(n.reads[1]) && elements(n.tensors[1]) == width(n.reads[1]) &&
                 width(n.reads[1]) == width(n.reads[2]) && width(n.writes) % width(n.reads[1]) == 0,
             "one β, one decay for each value head");
        break;
      case operation::route:
        need(n.reads.size() == 1 && n.tensors.size() <= 1, "the router's logits, and a correction or none");
        need(rows(n.writes) == value_rows::table, "a routing table as result");
        break;
      case operation::combine:
        count(2, 0);
        need(rows(n.reads[0]) == value_rows::routed && rows(n.reads[1]) == value_rows::table &&
                 rows(n.writes) == value_rows::tokens && width(n.reads[0]) == width(n.writes),
             "routed rows and their table");
        break;
    }
  }

  block_graph const& g_;
  std::vector<char> written_, read_;
  std::size_t node_ = 0;
};

}  // namespace detail

/// Throws shape_error naming the first node whose wiring or shapes are wrong.
inline void validate(block_graph const& g) { detail::graph_check(g).run(); }

/// Writes down a graph from front to back; each call adds a node and gives the value that it writes.
class graph_builder {
 public:
  explicit graph_builder(index_t hidden) { g_.values.push_back({hidden, value_rows::tokens}); }

  [[nodiscard]] int input() const { return g_.input; }

  int norm(int x, graph_tensor weight) {
    return node({.op = operation::norm, .reads = {x}, .tensors = {tensor(std::move(weight))}}, value(x));
  }
  /// One group that all tokens reach.
  int linear(int x, linear_group group) {
    graph_value const y{group.outputs(), value(x).rows};
    g_.groups.push_back(std::move(group));
    return node({.op = operation::linear, .reads = {x}, .group = int(g_.groups.size()) - 1}, y);
  }
  /// A group for each expert, which the tokens reach that `table` sends there.
  int experts(int x, int table, std::vector<linear_group> groups) {
    graph_value const y{groups.empty() ? 0 : groups.front().outputs(), value_rows::routed};
    auto const first = static_cast<int>(g_.groups.size());
    for (linear_group& g : groups) {
      g.expert = static_cast<index_t>(g_.groups.size()) - first;
      g_.groups.push_back(std::move(g));
    }
    return node({.op = operation::linear, .reads = {x, table}, .group = first}, y);
  }
  /// Norms of each head's query and key: both or none.
  int attention(int x, attention_shape const& shape, std::vector<graph_tensor> norms = {}) {
    g_.attention = shape;
    std::vector<int> tensors;
    for (graph_tensor& t : norms) tensors.push_back(tensor(std::move(t)));
    return node({.op = operation::attention, .reads = {x}, .tensors = std::move(tensors)},
                {shape.heads * shape.head_dim, value_rows::tokens});
  }
  int gated_activation(int x) {
    return node({.op = operation::gated_activation, .reads = {x}}, {value(x).width / 2, value(x).rows});
  }
  int add(int x, int y) { return node({.op = operation::add, .reads = {x, y}}, value(x)); }
  int slice(int x, index_t first, index_t width) {
    return node({.op = operation::slice, .reads = {x}, .first_column = first}, {width, value(x).rows});
  }
  /// Any other node; `result` is what it writes.
  int other(operation op, std::vector<int> reads, std::vector<graph_tensor> tensors, graph_value result) {
    std::vector<int> indices;
    for (graph_tensor& t : tensors) indices.push_back(tensor(std::move(t)));
    return node({.op = op, .reads = std::move(reads), .tensors = std::move(indices)}, result);
  }

  /// Throws what validate() throws.
  block_graph finish(int output) {
    g_.output = output;
    validate(g_);
    return std::move(g_);
  }

 private:
  [[nodiscard]] graph_value value(int x) const { return g_.values[static_cast<std::size_t>(x)]; }
  int tensor(graph_tensor t) {
    g_.tensors.push_back(std::move(t));
    return static_cast<int>(g_.tensors.size()) - 1;
  }
  int node(graph_node n, graph_value result) {
    g_.values.push_back(result);
    n.writes = static_cast<int>(g_.values.size()) - 1;
    g_.nodes.push_back(std::move(n));
    return g_.nodes.back().writes;
  }

  block_graph g_;
};

}  // namespace v0
}  // namespace gptq
