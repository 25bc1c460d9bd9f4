/// Weights one layer ahead: while a layer is worked on, another thread reads the next one and copies it to the backend.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_abilities.hpp>
#include <gptq/run/load_layer.hpp>

#include <cstddef>
#include <future>
#include <span>
#include <utility>

namespace gptq {
inline namespace v0 {

/// Gives the layers of a model in the backend's memory, one at a time. With an uploading_backend, take() also begins
/// the next one: groups that are stored in the backend's own type; with any other, and for all the rest, it loads.
template <forward_backend B>
class layer_loader {
 public:
  layer_loader(B& b, model_weights const& weights) : backend_(&b), weights_(&weights) {}
  layer_loader(layer_loader const&) = delete;
  layer_loader& operator=(layer_loader const&) = delete;
  ~layer_loader() {
    try {
      drop();
    } catch (error const&) {  // of a layer that nobody asked for
    }
  }

  /// Throws what load_layer throws.
  layer_weights<B> take(index_t i) {
    if (begun_ != i) drop();
    auto layer = load_layer(*backend_, *weights_, i, finish());
    if (i + 1 < weights_->config().blocks) begin(i + 1);
    return layer;
  }

  /// Gives back the memory of the next layer; take() then loads it. False where there was none.
  bool drop() {
    group_matrices<B> const unused = finish();
    for (auto const& m : unused)
      if (m.rows() > 0) return true;
    return false;
  }

 private:
  void begin([[maybe_unused]] index_t i) {
    if constexpr (uploading_backend<B>) {
      using T = typename B::activation;
      bool any = false;
      try {
        ahead_.resize(weights_->layer(i).groups.size());
        for (std::size_t g = 0; g < ahead_.size(); ++g)
          if (linear_group const& group = weights_->layer(i).groups[g]; detail::stored_as<T>(*weights_, group)) {
            ahead_[g] = backend_->template make<T>(group.outputs(), group.inputs());
            any = true;
          }
      } catch (device_memory_error const&) {  // no room to be early
        ahead_.clear();
        return;
      }
      if (!any) return;
      begun_ = i;
      backend_->begin_upload_ahead();
      reading_ = std::async(std::launch::async, [this, i] {
        for (std::size_t g = 0; g < ahead_.size(); ++g) {
          if (ahead_[g].rows() == 0) continue;
          view_of<B, T> const to = ahead_[g];
          for (linear_info const& l : weights_->layer(i).groups[g].linears)
            backend_->upload_ahead(weights_->stored(l)->bytes, to.row_range(l.first_row, l.rows));
        }
      });
    }
  }

  /// What was begun, complete; groups that hold NaN or Inf are left to load_layer, which says where.
  group_matrices<B> finish() {
    begun_ = -1;
    if constexpr (uploading_backend<B>) {
      if (reading_.valid()) {
        reading_.wait();
        backend_->end_upload_ahead();  // also where reading failed: then the memory goes after the copies
        group_matrices<B> ready = std::exchange(ahead_, {});
        reading_.get();
        for (auto& m : ready)
          if (m.rows() > 0 && !backend_->all_finite(view_of<B, typename B::activation const>(std::as_const(m)))) m = {};
        return ready;
      }
    }
    return {};
  }

  B* backend_;
  model_weights const* weights_;
  index_t begun_ = -1;
  group_matrices<B> ahead_;
  std::future<void> reading_;  ///< waits for its thread when it goes, so it goes first
};

}  // namespace v0
}  // namespace gptq
