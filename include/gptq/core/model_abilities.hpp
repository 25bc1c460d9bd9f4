/// What a backend that runs models may offer beyond model_backend.hpp. Each ability is a flag that the backend sets to
/// true, never a match by accident, and what the flag promises is asserted beside the implementation.
#pragma once

#include <gptq/core/model_backend.hpp>

#include <concepts>
#include <cstddef>
#include <span>

namespace gptq {
inline namespace v0 {

/// A memory of its own that host memory can stand in for, at the speed of a bus: `static constexpr bool fetches = true`.
///
///   b.make_pinned<T>(rows, cols)       a matrix in host memory
///   b.fetch(pinned, to)                pinned to backend, in the order of the other work
///   b.store(from, pinned)              the other way
///   b.fetch_ahead(pinned, to)          begins after the work so far and runs beside what follows
///   b.join_fetch()                     what comes now waits for all copies ahead
template <class B>
concept fetching_backend = forward_backend<B> && requires {
  requires B::fetches;
};

/// Whether all is there that the flag promises.
template <class B>
concept fetches_as_promised = !fetching_backend<B> || requires(B & b, view_of<B, typename B::activation> own) {
  b.store(own, b.template make_pinned<typename B::activation>(1, 1).view());
  b.fetch(b.template make_pinned<typename B::activation>(1, 1).view(), own);
  b.fetch_ahead(b.template make_pinned<typename B::activation>(1, 1).view(), own);
  b.join_fetch();
};

/// Weights as a file holds them, taken without a way through float: `static constexpr bool uploads = true`.
///
///   b.upload_bytes(bytes, view)        elements as a file holds them
///   b.upload_ahead(bytes, view)        the same from another thread, beside other work, between …
///   b.begin_upload_ahead(), b.end_upload_ahead()
///   b.all_finite(view)                 no NaN or Inf among what was uploaded
template <class B>
concept uploading_backend = forward_backend<B> && requires {
  requires B::uploads;
};

/// Whether all is there that the flag promises.
template <class B>
concept uploads_as_promised =
    !uploading_backend<B> || requires(B & b, view_of<B, typename B::activation> to, std::span<std::byte const> bytes) {
  b.upload_bytes(bytes, to);
  b.begin_upload_ahead();
  b.upload_ahead(bytes, to);
  b.end_upload_ahead();
  { b.all_finite(view_of<B, typename B::activation const>(to)) } -> std::same_as<bool>;
};

}  // namespace v0
}  // namespace gptq
