/// Parts of a block graph in the order in which they run, with room for what passes between them. Nothing here computes.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/model/block_graph.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// The nodes that lead from values at hand to the values wanted. What a node writes goes to a slot of scratch memory, to
/// memory of the caller's, or into the hidden states, which the residual adds change in place.
struct layer_program {
  std::vector<int> steps;           ///< nodes
  std::vector<int> slots;           ///< [values] where each is written, or -1
  std::vector<index_t> widths;      ///< [slots] features of the widest value in each
  std::vector<char> hidden;         ///< [values] those that the hidden states are
  std::vector<char> adds_directly;  ///< [nodes] linears whose result is added to the hidden states without being stored
};

/// What the walk through a layer has at hand when it comes to each of its groups, and how it gets there.
struct layer_plan {
  std::vector<layer_program> to_group;  ///< [groups] from what is at hand to the group's input
  layer_program to_end;                 ///< from behind the last group's input to the hidden states behind the layer
  std::vector<std::vector<int>> kept;   ///< [groups + 1] values of all tokens at hand there, beside the hidden states
};

/// Which values of a graph the hidden states are, each in the place of the one before.
inline std::vector<char> hidden_values(block_graph const& g) {
  std::vector<char> hidden(g.values.size(), 0);
  for (int v = g.output;;) {
    hidden[static_cast<std::size_t>(v)] = 1;
    graph_node const* const n = g.writer(v);
    if (!n) return hidden;
    if (n->op == operation::norm)
      hidden[static_cast<std::size_t>(v)] = 0;  // added to a norm of the hidden states: copied there first
    else if (n->op != operation::add)
      throw shape_error("block graph: what leads to its output is no chain of adds");
    v = n->reads[0];
  }
}

namespace detail {

/// Collects the nodes of one program, operands first.
class program_maker {
 public:
  program_maker(block_graph const& g, std::vector<char> const& hidden, std::vector<char> at_hand)
      : g_(g), hidden_(hidden), there_(std::move(at_hand)), own_(there_) {
    program_.hidden = hidden;
    program_.slots.assign(g.values.size(), -1);
    program_.adds_directly.assign(g.nodes.size(), 0);
  }

  void want(int value) {
    if (there_[at(value)]) return;
    for (std::size_t n = 0; n < g_.nodes.size(); ++n) {
      if (g_.nodes[n].writes != value) continue;
      for (int const r : g_.nodes[n].reads) want(r);
      program_.steps.push_back(static_cast<int>(n));
      there_[at(value)] = 1;
      return;
    }
    throw shape_error("block graph: value " + std::to_string(value) + " is gone when it is needed");
  }
  /// A value with memory of its own.
  void store(int value) { own_[at(value)] = 1; }

  layer_program finish(std::vector<int> const& wanted) {
    check_hidden_states();
    find_direct_adds(wanted);
    give_slots(wanted);
    return std::move(program_);
  }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }

  /// The hidden states change in place: nobody may read them as they were.
  void check_hidden_states() const {
    std::vector<char> gone(g_.values.size(), 0);
    for (int const n : program_.steps) {
      graph_node const& node = g_.nodes[at(n)];
      for (int const r : node.reads)
        if (gone[at(r)]) throw shape_error("block graph: the hidden states are read as they were before an add");
      if (!hidden_[at(node.writes)]) continue;
      for (std::size_t v = 0; v < gone.size(); ++v) gone[v] = hidden_[v] && static_cast<int>(v) != node.writes;
    }
  }

  void find_direct_adds(std::vector<int> const& wanted) {
    for (int const n : program_.steps) {
      graph_node const& node = g_.nodes[at(n)];
      if (node.op != operation::add || !hidden_[at(node.writes)]) continue;
      int const y = node.reads[1];
      bool const elsewhere = own_[at(y)] || g_.readers(y) != 1 || std::count(wanted.begin(), wanted.end(), y) > 0;
      for (int const w : program_.steps)
        if (g_.nodes[at(w)].writes == y && g_.nodes[at(w)].op == operation::linear && !elsewhere)
          program_.adds_directly[at(w)] = 1;
    }
  }

  /// The step that reads a value last; a linear that adds directly reads when the add is reached.
  [[nodiscard]] std::size_t last_use(int value) const {
    std::size_t last = 0;
    for (std::size_t s = 0; s < program_.steps.size(); ++s) {
      graph_node const& n = g_.nodes[at(program_.steps[s])];
      for (int const r : n.reads) {
        if (r == value) last = s;
        graph_node const* const w = g_.writer(r);
        if (w && n.op == operation::add && program_.adds_directly[at(static_cast<int>(w - g_.nodes.data()))] &&
            std::count(w->reads.begin(), w->reads.end(), value) > 0)
          last = s;
      }
    }
    return last;
  }

  void give_slots(std::vector<int> const& wanted) {
    std::vector<std::size_t> free_from;  // [slots] the step from which on it may be written again
    for (std::size_t s = 0; s < program_.steps.size(); ++s) {
      int const n = program_.steps[s], v = g_.nodes[at(n)].writes;
      if (own_[at(v)] || hidden_[at(v)] || program_.adds_directly[at(n)]) continue;
      std::size_t slot = 0;
      while (slot < free_from.size() && free_from[slot] > s) ++slot;
      if (slot == free_from.size()) {
        free_from.push_back(0);
        program_.widths.push_back(0);
      }
      bool const stays = std::count(wanted.begin(), wanted.end(), v) > 0;
      free_from[slot] = stays ? program_.steps.size() : last_use(v) + 1;
      program_.widths[slot] = (std::max)(program_.widths[slot], g_.values[at(v)].width);
      program_.slots[at(v)] = static_cast<int>(slot);
    }
  }

  block_graph const& g_;
  std::vector<char> const& hidden_;
  std::vector<char> there_, own_;
  layer_program program_;
};

/// How dear it is to compute a value again from hidden states: not at all, a product, attention along all tokens.
enum class recomputing : unsigned char { cheap, linear, sequence };

inline recomputing cost_of(block_graph const& g, std::vector<char> const& hidden, int value) {
  graph_node const* const n = g.writer(value);
  if (!n || hidden[static_cast<std::size_t>(value)]) return recomputing::cheap;
  recomputing cost = recomputing::cheap;
  switch (n->op) {
    case operation::norm:
    case operation::slice:
    case operation::gated_activation:
    case operation::multiply_sigmoid:
    case operation::add: break;
    case operation::linear:
    case operation::route:
    case operation::combine: cost = recomputing::linear; break;
    default: cost = recomputing::sequence;
  }
  for (int const r : n->reads) cost = (std::max)(cost, cost_of(g, hidden, r));
  return cost;
}

}  // namespace detail

/// The whole layer in one go.
inline layer_program whole_layer(block_graph const& g) {
  auto const hidden = hidden_values(g);
  std::vector<char> at_hand(g.values.size(), 0);
  at_hand[static_cast<std::size_t>(g.input)] = 1;
  detail::program_maker maker(g, hidden, at_hand);
  maker.want(g.output);
  return maker.finish({g.output});
}

/// The layer group by group. Between two groups the hidden states stay, and so do values that attention went into; those
/// that only a product went into stay if `keep_products` (else they are computed twice), and norms are computed again.
inline layer_plan plan_layer(block_graph const& g, bool keep_products) {
  auto const hidden = hidden_values(g);
  auto const at = [](int i) { return static_cast<std::size_t>(i); };
  layer_plan plan;
  std::vector<char> at_hand(g.values.size(), 0);
  std::vector<char> executed(g.nodes.size(), 0);
  at_hand[at(g.input)] = 1;
  plan.kept.emplace_back();
  for (std::size_t group = 0; group < g.groups.size(); ++group) {
    graph_node const& reader = g.node_of(group);
    int const x = reader.reads[0];
    // A first look says which nodes run, and so what somebody still needs afterwards.
    detail::program_maker look(g, hidden, at_hand);
    look.want(x);
    std::vector<char> now = at_hand;
    for (int const n : look.finish({x}).steps) {
      executed[at(n)] = 1;
      now[at(g.nodes[at(n)].writes)] = 1;
    }
    std::vector<int> kept;
    int state = g.input;
    for (std::size_t v = 0; v < now.size(); ++v) {
      if (!now[v]) continue;
      auto const value = static_cast<int>(v);
      if (hidden[v]) {
        state = value;  // each takes the place of the one before
        continue;
      }
      bool needed = false;
      for (std::size_t n = 0; n < g.nodes.size(); ++n)
        needed = needed || (!executed[n] && std::count(g.nodes[n].reads.begin(), g.nodes[n].reads.end(), value) > 0);
      auto const cost = detail::cost_of(g, hidden, value);
      if (needed && (cost == detail::recomputing::sequence || (keep_products && cost == detail::recomputing::linear)))
        kept.push_back(value);
    }
    detail::program_maker maker(g, hidden, at_hand);
    for (int const v : kept) maker.store(v);
    maker.want(x);
    plan.to_group.push_back(maker.finish({x}));
    std::fill(at_hand.begin(), at_hand.end(), 0);
    at_hand[at(state)] = 1;
    for (int const v : kept) at_hand[at(v)] = 1;
    plan.kept.push_back(std::move(kept));
  }
  detail::program_maker maker(g, hidden, at_hand);
  maker.want(g.output);
  plan.to_end = maker.finish({g.output});
  return plan;
}

/// Features of the widest value that plan_layer keeps only if products are kept; 1 where there is none.
inline index_t product_width(block_graph const& g) {
  auto const hidden = hidden_values(g);
  index_t widest = 1;
  for (std::size_t group = 0; group < g.groups.size(); ++group) {
    int const x = g.node_of(group).reads[0];
    if (detail::cost_of(g, hidden, x) == detail::recomputing::linear)
      widest = (std::max)(widest, g.values[static_cast<std::size_t>(x)].width);
  }
  return widest;
}

/// Features of each slot of scratch memory that running these layers takes, in one go or group by group.
inline std::vector<index_t> scratch_widths(std::vector<block_graph> const& layers) {
  std::vector<index_t> widths;
  auto const add = [&](layer_program const& p) {
    widths.resize((std::max)(widths.size(), p.widths.size()), 0);
    for (std::size_t s = 0; s < p.widths.size(); ++s) widths[s] = (std::max)(widths[s], p.widths[s]);
  };
  for (block_graph const& g : layers) {
    layer_plan const plan = plan_layer(g, false);
    for (layer_program const& p : plan.to_group) add(p);
    add(plan.to_end);
    add(whole_layer(g));
  }
  return widths;
}

}  // namespace v0
}  // namespace gptq
