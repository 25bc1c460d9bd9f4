#include "support/catch.hpp"

#include <gptq/text/flat_map.hpp>
#include <gptq/text/word_cache.hpp>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

TEST_CASE("a flat map holds what was put in, however it grew") {
  gptq::text::flat_map<int> map;
  std::unordered_map<std::uint64_t, int> reference;
  std::uint64_t key = 1;
  for (int i = 0; i < 5000; ++i) {
    key = key * 6364136223846793005u + 1442695040888963407u;
    std::uint64_t const k = key >> 52 << (i % 2 ? 40 : 0);  // many repeats, also with equal low bits
    map.insert_or_assign(k, i);
    reference[k] = i;
  }
  REQUIRE(map.size() == reference.size());
  for (auto const& [k, v] : reference) {
    REQUIRE(map.find(k));
    CHECK(*map.find(k) == v);
  }
  CHECK_FALSE(map.find(0xFFFFFFFFFFu));
  CHECK_FALSE(gptq::text::flat_map<int>().find(0));
}

TEST_CASE("the word cache gives back ids and forgets when it is full") {
  gptq::text::word_cache cache;
  auto const word = [](std::size_t i) { return "word" + std::to_string(i); };
  std::size_t const count = gptq::text::word_cache::most_words + 10;
  for (std::size_t i = 0; i < count; ++i) {
    auto const place = cache.find(word(i));
    REQUIRE_FALSE(place.known);
    cache.insert(place, word(i), std::vector<std::int32_t>{static_cast<std::int32_t>(i), -1});
    REQUIRE(cache.find(word(i)).known);
  }
  auto const last = cache.find(word(count - 1));
  REQUIRE(last.known);
  CHECK(cache.ids(last)[0] == static_cast<std::int32_t>(count - 1));
  CHECK(cache.ids(last).size() == 2);
  CHECK_FALSE(cache.find(word(0)).known);
}
