/// One row for each token of a batch, in the backend's memory or in host memory that it copies from by itself.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/model_abilities.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace gptq {
inline namespace v0 {

namespace detail {

struct no_matrix {};
template <class B>
struct pinned_of {
  using type = no_matrix;
};
template <fetching_backend B>
struct pinned_of<B> {
  using type = decltype(std::declval<B&>().template make_pinned<typename B::activation>(1, 1));
};

}  // namespace detail

/// Rows [first, first + count) of all tokens.
struct row_span {
  index_t first = 0;
  index_t count = 0;
  friend bool operator==(row_span const&, row_span const&) = default;
};

/// [tokens × cols]. In host memory, the rows in use and those that come next are copied to one of two slots.
template <forward_backend B>
class token_rows {
  static_assert(fetches_as_promised<B>, "gptq: the backend says that it fetches and lacks one of the verbs");

 public:
  using activation = typename B::activation;
  using view = view_of<B, activation>;

  token_rows() = default;
  /// `most`: the largest span that will be asked for, for on_host. Throws shape_error where the backend can't.
  token_rows(B& b, index_t rows, index_t cols, bool on_host, index_t most) : backend_(&b), rows_(rows), cols_(cols) {
    if (!on_host) {
      own_ = b.template make<activation>(rows, cols);
    } else if constexpr (fetching_backend<B>) {
      pinned_ = b.template make_pinned<activation>(rows, cols);
      on_host_ = true;
      resize(most);
    } else {
      throw shape_error("token_rows: this backend computes in host memory");
    }
  }
  token_rows(token_rows&&) = default;
  token_rows& operator=(token_rows&& other) {
    forget();
    backend_ = other.backend_;
    rows_ = other.rows_;
    cols_ = other.cols_;
    on_host_ = other.on_host_;
    own_ = std::move(other.own_);
    pinned_ = std::move(other.pinned_);
    slots_ = std::move(other.slots_);
    held_ = other.held_;
    ahead_ = std::exchange(other.ahead_, {});
    current_ = other.current_;
    other.rows_ = 0;
    return *this;
  }
  ~token_rows() {
    try {
      forget();
    } catch (error const&) {  // the copy failed, and so will everything else on that device
    }
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] bool on_host() const { return on_host_; }

  /// All rows; not on_host.
  [[nodiscard]] view_of<B, activation const> all() const {
    if (on_host_) throw shape_error("token_rows: the rows are in host memory");
    return own_;
  }

  /// These rows, to be read and changed until the next call; those of `next` are fetched meanwhile.
  view read(row_span span, row_span next) {
    if (!on_host_) return view(own_).row_range(span.first, span.count);
    if constexpr (fetching_backend<B>) {
      if (span != held_) {
        current_ ^= 1;
        if (span == ahead_) {
          backend_->join_fetch();
          ahead_ = {};
        } else {
          forget();
          backend_->fetch(pinned_.view().row_range(span.first, span.count), slot(current_, span.count));
        }
        held_ = span;
      }
      if (next != span && next != ahead_ && next.count > 0) {
        forget();
        backend_->fetch_ahead(pinned_.view().row_range(next.first, next.count), slot(current_ ^ 1, next.count));
        ahead_ = next;
      }
    }
    return slot(current_, span.count);
  }

  /// Room for these rows, to be written until the next call.
  view write(row_span span) {
    if (!on_host_) return view(own_).row_range(span.first, span.count);
    forget();
    current_ ^= 1;
    held_ = span;
    return slot(current_, span.count);
  }

  /// The rows of the last call are as they shall be.
  void store(row_span span) {
    if constexpr (fetching_backend<B>)
      if (on_host_) backend_->store(slot(current_, span.count), pinned_.view().row_range(span.first, span.count));
  }

  /// For spans of another size.
  void resize(index_t most) {
    if (!on_host_) return;
    forget();
    held_ = {};
    for (auto& s : slots_) s = {};
    for (auto& s : slots_) s = backend_->template make<activation>(most, cols_);
  }

  [[nodiscard]] token_rows copy() const {
    if constexpr (fetching_backend<B>)
      if (on_host_) {
        token_rows other(*backend_, rows_, cols_, true, slots_[0].rows());
        index_t const step = slots_[0].rows();
        auto& self = const_cast<token_rows&>(*this);
        for (index_t r = 0; r < rows_; r += step) {
          row_span const span{r, (std::min)(step, rows_ - r)};
          auto const from = self.read(span, span);
          auto const to = other.write(span);
          backend_->copy(view_of<B, activation const>(from), to);
          other.store(span);
        }
        return other;
      }
    token_rows other(*backend_, rows_, cols_, false, 0);
    backend_->copy(view_of<B, activation const>(own_), view(other.own_));
    return other;
  }

 private:
  view slot(std::size_t i, index_t rows) { return view(slots_[i]).row_range(0, rows); }

  /// Waits for a copy that nobody asked for after all.
  void forget() {
    if constexpr (fetching_backend<B>)
      if (ahead_.count > 0) backend_->join_fetch();
    ahead_ = {};
  }

  B* backend_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
  bool on_host_ = false;
  matrix_of<B, activation> own_;
  typename detail::pinned_of<B>::type pinned_;
  std::array<matrix_of<B, activation>, 2> slots_;
  row_span held_, ahead_;
  std::size_t current_ = 0;
};

}  // namespace v0
}  // namespace gptq
