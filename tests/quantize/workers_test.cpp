/// A run split over workers: the files do not tell how many there were.
#include "support/files.hpp"
#include "support/pipeline_cases.hpp"

#include <gptq/backend/host_model.hpp>
#include <gptq/comm/threads.hpp>
#include <gptq/quantize/pipeline.hpp>

#include <atomic>
#include <map>
#include <string>
#include <vector>

namespace {

using files = std::map<std::string, std::string>;

files contents(std::filesystem::path const& folder) {
  files all;
  for (auto const& name : test::listing(folder)) all[name] = test::read_text(folder / name);
  return all;
}

struct result {
  files written;
  std::vector<gptq::pipeline_report> reports;  ///< of each worker
  gptq::worker_traffic received;               ///< of all
};

result run_with(int workers, gptq::recipe const& asked, test::samples const& tokens) {
  test::temp_dir const dir;
  gptq::job const j(test::bundled_model(), asked);
  result all;
  all.reports.resize(static_cast<std::size_t>(workers));
  std::vector<gptq::worker_traffic> received(all.reports.size());
  gptq::run_workers(workers, [&](gptq::thread_worker& c) {
    gptq::host_model_backend b;
    auto const r = static_cast<std::size_t>(c.rank());
    gptq::run_options options;
    options.count_codes = true;
    all.reports[r] = gptq::run(j, b, c, dir / "out", tokens, options);
    received[r] = c.received();
  });
  all.written = contents(dir / "out");
  CHECK(test::listing(dir.path()) == std::vector<std::string>{"out"});
  for (auto const& r : received) {
    all.received.sum += r.sum;
    all.received.gather += r.gather;
  }
  return all;
}

result run_alone(gptq::recipe const& asked, test::samples const& tokens) {
  test::temp_dir const dir;
  gptq::host_model_backend b;
  gptq::run_options options;
  options.count_codes = true;
  result alone;
  alone.reports.push_back(gptq::run(gptq::job(test::bundled_model(), asked), b, dir / "out", tokens, options));
  alone.written = contents(dir / "out");
  return alone;
}

/// Whether two workers, or two runs, say the same of every linear.
void check_same_reports(gptq::pipeline_report const& a, gptq::pipeline_report const& b) {
  CHECK(a.tokens == b.tokens);
  CHECK(a.samples == b.samples);
  REQUIRE(a.linears.size() == b.linears.size());
  for (std::size_t i = 0; i < a.linears.size(); ++i) {
    auto const &x = a.linears[i], &y = b.linears[i];
    CAPTURE(x.name, i);
    CHECK(x.name == y.name);
    CHECK(x.codes == y.codes);
    CHECK(x.report.tokens == y.report.tokens);
    CHECK(x.report.scale_underflows == y.report.scale_underflows);
    CHECK(x.report.rel_loss == y.report.rel_loss);
    CHECK(x.report.rel_loss_rtn == y.report.rel_loss_rtn);
    CHECK(x.report.refined_loss == y.report.refined_loss);
    CHECK(x.report.float_loss == y.report.float_loss);
  }
}

void check_numbers_of_workers(std::vector<int> const& numbers, gptq::recipe const& asked, test::samples const& tokens) {
  result const alone = run_alone(asked, tokens);
  REQUIRE(alone.written.size() > 3);
  for (int const workers : numbers) {
    CAPTURE(workers);
    result const several = run_with(workers, asked, tokens);
    CHECK(several.written == alone.written);
    for (auto const& report : several.reports) check_same_reports(report, alone.reports.front());
  }
}

/// A backend that fails when so many matrices were made.
class breaking : public gptq::host_model_backend {
 public:
  template <class T>
  auto make(gptq::index_t rows, gptq::index_t cols) {
    if (--breaks_at == 0) throw gptq::error("a test's failure");
    return gptq::host_model_backend::make<T>(rows, cols);
  }
  std::atomic<int> breaks_at{0};
};

}  // namespace

TEST_CASE("workers: the same files with 1, 2, 3 and 4, whatever the preset", "[slow]") {
  auto const tokens = test::random_calibration(11);
  for (auto const* preset : {"default", "best"}) {
    CAPTURE(preset);
    check_numbers_of_workers({1, 2, 3, 4}, gptq::recipe_of(preset), tokens);
  }
}

TEST_CASE("workers: the same files for every width", "[slow]") {
  auto const tokens = test::random_calibration(11);
  for (int const bits : {2, 3, 8})
    for (auto const* preset : {"default", "best"}) {
      CAPTURE(bits, preset);
      auto asked = gptq::recipe_of(preset);
      asked.spec.bits = bits;
      check_numbers_of_workers({2, 3, 4}, asked, tokens);
    }
}

TEST_CASE("workers: more of them than samples; some have nothing to run and take part in the rest") {
  check_numbers_of_workers({4}, gptq::recipe_of("best"), test::random_calibration(2));
}

TEST_CASE("workers: all groups of a block at once") {
  auto asked = gptq::recipe_of("default");
  asked.true_sequential = false;
  check_numbers_of_workers({3}, asked, test::random_calibration(9));
}

TEST_CASE("workers: bytes are those of packed triangles, codes, scales and losses") {
  auto const tokens = test::random_calibration(8);
  result const two = run_with(2, gptq::recipe_of("default"), tokens);
  double sums = 0, tiles = 0;
  std::string group;
  for (auto const& l : two.reports.front().linears) {
    auto const in = static_cast<double>(l.in_features), out = static_cast<double>(l.out_features);
    if (l.group != group) sums += in * (in + 1) / 2 * 4;  // 2·(P − 1)/P of it comes to each of P = 2
    group = l.group;
    tiles += in * out + in / 128 * out * (1 + 4) + 8 * 8 * out;
  }
  CHECK(static_cast<double>(two.received.sum) <= 1.05 * 2 * sums);
  CHECK(static_cast<double>(two.received.sum) >= 0.95 * 2 * sums);
  CHECK(static_cast<double>(two.received.gather) <= 1.05 * tiles);  // each tile comes to one of two
  CHECK(static_cast<double>(two.received.gather) >= 0.95 * tiles);
}

TEST_CASE("workers: a failure of one ends all with its message, and leaves nothing") {
  test::temp_dir const dir;
  gptq::job const j(test::bundled_model(), {});
  auto const tokens = test::random_calibration(6);
  for (int const failing : {0, 2})
    for (int const at : {3, 200}) {
      CAPTURE(failing, at);
      std::atomic<int> released{0};
      CHECK(test::message_of<gptq::error>([&] {
              gptq::run_workers(3, [&](gptq::thread_worker& c) {
                breaking b;
                b.breaks_at = c.rank() == failing ? at : 0;
                try {
                  gptq::run(j, b, c, dir / "out", tokens);
                } catch (gptq::worker_error const& e) {
                  released += e.worker == failing;
                  throw;
                }
              });
            }) == "a test's failure");
      CHECK(released == 2);
      CHECK(test::listing(dir.path()).empty());
    }
}
