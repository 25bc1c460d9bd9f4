#include <gptq/core/spec.hpp>

#include "support/catch.hpp"

using gptq::column_order;
using gptq::quant_spec;

// A spec is a structural value: it can be a template argument, and what is invalid has a twin in tests/compile_fail.
template <quant_spec Spec>
constexpr int bits_of = gptq::checked_spec<Spec>::value.bits;
static_assert(bits_of<quant_spec{.bits = 3}> == 3);
static_assert(bits_of<gptq::w2g64> == 2);

TEST_CASE("spec: what is valid is the same at compile time and at run time") {
  for (int bits = -1; bits <= 16; ++bits) {
    bool const valid = bits == 2 || bits == 3 || bits == 4 || bits == 8;
    CHECK(gptq::valid_bits(bits) == valid);
    if (!valid) CHECK_THROWS_WITH(gptq::check_spec({.bits = bits}), test::contains("bits"));
  }
  for (int g = -2; g <= 1200; ++g) {
    bool const valid = g == -1 || g == 16 || g == 32 || g == 64 || (g > 0 && g % 128 == 0);
    CHECK(gptq::valid_group_size(g) == valid);
    if (!valid) CHECK_THROWS_WITH(gptq::check_spec({.group_size = g}), test::contains("group_size"));
  }
  CHECK_THROWS_AS(gptq::check_spec({.group_size = -1, .static_groups = true}), gptq::shape_error);
  CHECK_THROWS_AS(gptq::check_spec({.order = column_order::group_aware, .static_groups = true}), gptq::shape_error);
  CHECK_NOTHROW(gptq::check_spec({.order = column_order::desc_act, .static_groups = true}));
}

TEST_CASE("spec: dispatch reaches the pair that was asked for") {
  for (int bits : {2, 3, 4, 8})
    for (bool sym : {true, false}) {
      int const got =
          gptq::dispatch({.bits = bits, .sym = sym}, []<int Bits, bool Sym>() { return Sym ? Bits : -Bits; });
      CHECK(got == (sym ? bits : -bits));
    }
  CHECK_THROWS_AS(gptq::dispatch({.bits = 5}, []<int, bool>() {}), gptq::shape_error);
}

TEST_CASE("spec: groups and when g_idx is scattered") {
  CHECK(gptq::group_count(300, 128) == 3);
  CHECK(gptq::group_count(300, -1) == 1);
  CHECK(gptq::group_count(0, -1) == 0);
  CHECK(gptq::scattered_groups({.order = column_order::desc_act}));
  CHECK_FALSE(gptq::scattered_groups({.order = column_order::group_aware}));
  CHECK_FALSE(gptq::scattered_groups({.order = column_order::desc_act, .static_groups = true}));
  CHECK_FALSE(gptq::scattered_groups({.group_size = -1, .order = column_order::desc_act}));
}
