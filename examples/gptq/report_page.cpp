#include "report_page.hpp"

#include "console.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace app {
namespace {

using gptq::json;

/// A loss that entries of `linears` may have.
struct series {
  char const* key;
  char const* name;
  char const* color;
};
constexpr std::array<series, 5> all_series = {{{"rtn_rel_loss", "rounding to nearest", "#8a8a8a"},
                                               {"pass_loss", "after the pass, against its target", "#d98a00"},
                                               {"refined_loss", "after refinement, against the target", "#0072b2"},
                                               {"rel_loss", "result, against the weights", "#b0417f"},
                                               {"float_loss", "result, against the float model's outputs", "#00875f"}}};

constexpr char const* style = R"(
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 78rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: #666 } dd { margin: 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4 }
th { color: #666; font-weight: 600; vertical-align: bottom } th:first-child, td:first-child { text-align: left } td { white-space: nowrap }
.charts { display: flex; flex-wrap: wrap; gap: .5rem 1rem } figure { margin: 0 } figcaption { font-weight: 600 }
.key span { display: inline-block; margin-right: 1.2rem } .key i { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .4rem; vertical-align: middle }
.warning { color: #a33 } .scroll { overflow-x: auto } svg text { font-size: 11px; fill: #666 }
)";

/// Text of a file or the command line, fit for HTML.
std::string escaped(std::string_view text) {
  std::string out;
  for (char const c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  return out;
}

std::optional<double> number(json const& object, char const* key) {
  auto const found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

/// The kind of a layer and its block: "down_proj" and 3 of "model.layers.3.mlp.down_proj"; -1 outside all blocks.
std::pair<std::string, int> place_of(std::string const& name) {
  int block = -1;
  for (std::size_t begin = 0; begin < name.size() && block < 0;) {
    std::size_t const end = (std::min)(name.find('.', begin), name.size());
    std::string const part = name.substr(begin, end - begin);
    if (!part.empty() && part.size() < 6 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }))
      block = std::stoi(part);
    begin = end + 1;
  }
  return {name.substr(name.rfind('.') + 1), block};
}

/// One chart for each kind of layer: losses over blocks, on one logarithmic scale for all.
class loss_charts {
 public:
  explicit loss_charts(json const& linears) : linears_(linears) {
    double least = 1e300, most = 0;
    for (auto const& l : linears) {
      auto const [kind, block] = place_of(l.at("name").get<std::string>());
      if (block < 0) continue;
      if (std::find(kinds_.begin(), kinds_.end(), kind) == kinds_.end()) kinds_.push_back(kind);
      last_block_ = (std::max)(last_block_, block);
      for (auto const& s : all_series)
        if (auto const loss = number(l, s.key); loss && *loss > 0) {
          least = (std::min)(least, *loss);
          most = (std::max)(most, *loss);
        }
    }
    if (most == 0) kinds_.clear();
    low_ = std::log10(least) - 0.05;
    high_ = std::log10(most) + 0.05;
  }

  [[nodiscard]] std::string html() const {
    std::string text = key() + "<div class=\"charts\">\n";
    for (auto const& kind : kinds_) text += chart(kind);
    return text + "</div>\n";
  }
  [[nodiscard]] bool empty() const { return kinds_.empty(); }

 private:
  static constexpr double width = 290, height = 170, left = 50, right = 8, top = 8, bottom = 20;

  [[nodiscard]] bool has(char const* key) const {
    return std::any_of(linears_.begin(), linears_.end(), [&](json const& l) { return number(l, key).has_value(); });
  }
  [[nodiscard]] std::string key() const {
    std::string text = "<p class=\"key\">";
    for (auto const& s : all_series)
      if (has(s.key)) text += fmt::format("<span><i style=\"background:{}\"></i>{}</span>", s.color, s.name);
    return text + "</p>\n";
  }
  [[nodiscard]] double x(int block) const {
    return last_block_ == 0 ? (left + width - right) / 2 : left + (width - left - right) * block / last_block_;
  }
  [[nodiscard]] double y(double loss) const {
    return top + (height - top - bottom) * (high_ - std::log10(loss)) / (high_ - low_);
  }

  [[nodiscard]] std::string chart(std::string const& kind) const {
    std::string text = fmt::format(
        "<figure><figcaption>{0}</figcaption><svg width=\"{1}\" height=\"{2}\" role=\"img\" "
        "aria-label=\"losses of {0} over blocks\">\n",
        escaped(kind), width, height);
    for (double decade = std::floor(low_); decade <= high_; ++decade)
      for (int const step : {1, 2, 5}) {
        double const loss = step * std::pow(10, decade);
        if (std::log10(loss) < low_ || std::log10(loss) > high_) continue;
        text += fmt::format(
            "<path d=\"M{} {:.1f}H{}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1f}\" "
            "text-anchor=\"end\">{:g}</text>\n",
            left, y(loss), width - right, left - 5, y(loss) + 4, loss);
      }
    for (int block = 0; block <= last_block_; block += (std::max)(1, last_block_ / 4))
      text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", x(block), height - 4, block);
    for (auto const& s : all_series) {
      std::string line, dots;
      for (auto const& l : linears_) {
        auto const [of, block] = place_of(l.at("name").get<std::string>());
        auto const loss = number(l, s.key);
        if (of != kind || block < 0 || !loss || *loss <= 0) continue;
        line += fmt::format("{}{:.1f} {:.1f}", line.empty() ? "M" : "L", x(block), y(*loss));
        dots += fmt::format(
            "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"><title>block {}, {}: {:.3g}"
            "</title></circle>",
            x(block), y(*loss), s.color, block, s.name, *loss);
      }
      if (!line.empty()) text += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\"/>{}\n", line, s.color, dots);
    }
    return text + "</svg></figure>\n";
  }

  json const& linears_;
  std::vector<std::string> kinds_;
  int last_block_ = 0;
  double low_ = 0, high_ = 1;
};

/// How often each code was given, as bars; the title has the figures of the ends, where clipping shows.
std::string histogram(json const& codes) {
  if (codes.empty()) return {};
  auto const counts = codes.get<std::vector<std::uint64_t>>();
  double total = 0, most = 1;
  for (auto const c : counts) {
    total += static_cast<double>(c);
    most = (std::max)(most, static_cast<double>(c));
  }
  double const bar = 128.0 / static_cast<double>(counts.size());
  std::string path;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    double const h = 24 * static_cast<double>(counts[i]) / most;
    path += fmt::format("M{:.4g} 24v{:.3g}h{:.4g}v{:.3g}z", static_cast<double>(i) * bar, -h,
                        (std::max)(bar - 1, 0.5 * bar), h);
  }
  auto const share = [&](std::uint64_t c) { return total > 0 ? 100 * static_cast<double>(c) / total : 0; };
  return fmt::format(
      "<svg width=\"128\" height=\"24\"><title>{} codes, {:.2g} % the lowest, {:.2g} % the highest"
      "</title><path d=\"{}\" fill=\"#0072b2\"/></svg>",
      counts.size(), share(counts.front()), share(counts.back()), path);
}

std::string table_of(json const& linears) {
  std::string text = "<div class=\"scroll\"><table><tr><th>layer</th><th>outputs × inputs</th><th>bits</th>";
  for (auto const& s : all_series) text += fmt::format("<th>{}</th>", s.name);
  text += "<th>refinement gained</th><th>status</th><th>codes</th></tr>\n";
  for (auto const& l : linears) {
    text += fmt::format("<tr><td>{}</td><td>{} × {}</td><td>{}</td>", escaped(l.at("name").get<std::string>()),
                        l.at("N").get<std::int64_t>(), l.at("K").get<std::int64_t>(), l.at("bits").get<int>());
    for (auto const& s : all_series) {
      auto const loss = number(l, s.key);
      text += loss ? fmt::format("<td>{:.3g}</td>", *loss) : "<td>–</td>";
    }
    auto const before = number(l, "pass_loss"), after = number(l, "refined_loss");
    text +=
        before && after && *before > 0 ? fmt::format("<td>{:.1f} %</td>", 100 * (1 - *after / *before)) : "<td>–</td>";
    std::string const status = l.at("status").get<std::string>();
    text += fmt::format("<td{}>{}</td><td>{}</td></tr>\n", status == "ok" ? "" : " class=\"warning\"", escaped(status),
                        histogram(l.at("codes")));
  }
  return text + "</table></div>\n";
}

std::string seconds_chart(json const& seconds) {
  constexpr double width = 420, row = 20, label = 70;
  std::vector<std::pair<std::string, double>> parts;
  double most = 1e-9, sum = 0, total = 0;
  for (auto const& item : seconds.items()) {
    double const s = item.value().get<double>();
    if (item.key() == "total") {
      total = s;
      continue;
    }
    parts.emplace_back(item.key(), s);
    sum += s;
  }
  parts.emplace_back("other", (std::max)(0.0, total - sum));
  for (auto const& part : parts) most = (std::max)(most, part.second);
  std::string text =
      fmt::format("<svg width=\"{}\" height=\"{}\">\n", width + 160, row * static_cast<double>(parts.size()));
  double y = 0;
  for (auto const& [name, s] : parts) {
    text += fmt::format(
        "<text x=\"0\" y=\"{:.0f}\">{}</text><rect x=\"{}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"12\" "
        "fill=\"#0072b2\"/><text x=\"{:.1f}\" y=\"{:.0f}\">{:.2f} s</text>\n",
        y + 13, escaped(name), label, y + 3, width * s / most, label + 6 + width * s / most, y + 13, s);
    y += row;
  }
  return text + "</svg>\n";
}

std::string facts(json const& report) {
  std::string text = "<dl>";
  auto const add = [&](char const* name, std::string const& value) {
    text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, escaped(value));
  };
  json const& o = report.at("options");
  json const& c = report.at("calibration");
  add("model", report.at("model").get<std::string>());
  add("written to", report.at("output").get<std::string>());
  add("settings", fmt::format("preset {}, {} bits, group size {}, {}, order {}, format {}",
                              o.at("preset").get<std::string>(), o.at("bits").get<int>(), o.at("group_size").get<int>(),
                              o.at("sym").get<bool>() ? "symmetric" : "with zero points",
                              o.at("order").get<std::string>(), o.at("format").get<std::string>()));
  add("aims at",
      fmt::format("target shift {:g}, residual shift {:g}, scale re-estimation {}, coordinate-descent passes {}",
                  o.at("target_shift").get<double>(), o.at("residual_shift").get<double>(), o.at("refit").get<int>(),
                  o.at("sweeps").get<int>()));
  add("calibration",
      fmt::format("{}: {}, {} tokens", c.at("file").get<std::string>(),
                  counted(c.at("samples").get<std::int64_t>(), "sample"), c.at("tokens").get<std::int64_t>()));
  add("weights", fmt::format("{} -> {}", megabytes(report.at("bytes").at("before").get<std::uint64_t>()),
                             megabytes(report.at("bytes").at("after").get<std::uint64_t>())));
  if (json const& e = report.at("evaluation"); !e.is_null())
    add("evaluation",
        fmt::format("{}: KL divergence {:.3g} ± {:.2g}, same top token {:.4f}, perplexity {:.4f}, {}",
                    e.at("text").get<std::string>(), e.at("kl").get<double>(),
                    e.at("kl_windows").at("standard_error").get<double>(), e.at("top1").get<double>(),
                    e.at("perplexity").get<double>(), counted(e.at("windows").get<std::int64_t>(), "window")));
  return text + "</dl>\n";
}

}  // namespace

std::string report_page(json const& report) {
  std::string const title = "gptq: " + escaped(report.at("model").get<std::string>());
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"/><title>{}</title><style>{}</style>"
      "</head>\n<body>\n<h1>{}</h1>\n{}",
      title, style, title, facts(report));
  for (auto const& w : report.at("warnings"))
    text += fmt::format("<p class=\"warning\">{}</p>\n", escaped(w.get<std::string>()));
  json const& linears = report.at("linears");
  if (loss_charts const charts(linears); !charts.empty())
    text +=
        "<h2>Loss of each layer, block by block</h2>\n<p>Squared error of the outputs relative to the squared outputs, "
        "on the calibration data. Where a run aims at the float model's outputs, its target differs from the weights, "
        "and the loss against the weights rises by that. The loss against the float model's outputs holds what "
        "all layers before have lost.</p>\n" +
        charts.html();
  return text + "<h2>Seconds</h2>\n" + seconds_chart(report.at("seconds")) + "<h2>Layers</h2>\n" + table_of(linears) +
         "</body>\n</html>\n";
}

}  // namespace app
