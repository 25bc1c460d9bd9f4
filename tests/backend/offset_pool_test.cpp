#include "support/catch.hpp"

#include <gptq/backend/cuda/offset_pool.hpp>

#include <cstddef>
#include <map>
#include <random>

using gptq::detail::offset_pool;

TEST_CASE("offset pool: pieces never overlap, and what comes back is one hole again") {
  constexpr std::size_t whole = std::size_t(1) << 20;
  offset_pool pool(whole + 100);
  std::mt19937 random(1);
  std::map<std::size_t, std::size_t> taken;
  int refused = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0 || taken.empty()) {
      std::size_t const bytes = 1 + random() % (whole / 8);
      auto const offset = pool.take(bytes);
      if (!offset) {
        CHECK(pool.largest_hole() < bytes);
        ++refused;
        continue;
      }
      CHECK(*offset % offset_pool::alignment == 0);
      CHECK(*offset + bytes <= whole);
      auto const next = taken.lower_bound(*offset);
      if (next != taken.end()) CHECK(*offset + bytes <= next->first);
      if (next != taken.begin()) CHECK(std::prev(next)->first + std::prev(next)->second <= *offset);
      taken.emplace(*offset, bytes);
    } else {
      auto const one = std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
      pool.give(one->first, one->second);
      taken.erase(one);
    }
  }
  CHECK(refused > 0);
  for (auto const& [offset, bytes] : taken) pool.give(offset, bytes);
  CHECK(pool.largest_hole() == whole);
}

TEST_CASE("offset pool: the smallest hole that fits is used") {
  offset_pool pool(8192);
  auto const a = pool.take(1024), b = pool.take(512), c = pool.take(2048), d = pool.take(512);
  REQUIRE((a && b && c && d));
  pool.give(*c, 2048);
  pool.give(*a, 1024);
  CHECK(pool.take(1000) == a);
  CHECK(pool.take(1025) == c);
  CHECK_FALSE(pool.take(8192));
  CHECK_FALSE(offset_pool(100).take(1));
}
