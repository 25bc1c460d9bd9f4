/// The report of a run as a page to look at: one file of HTML and SVG, without scripts and without a network.
#pragma once

#include <gptq/io/json.hpp>

#include <string>

namespace app {

/// `report` is the document that quantize --report writes as JSON.
std::string report_page(gptq::json const& report);

}  // namespace app
