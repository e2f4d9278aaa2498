#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/bench.h"

namespace strata::cli {

void report_bench(const BenchArguments& a, Timed timed) {
    std::vector<Case>& cases = timed.cases;
    const train::StepReport& step = timed.step;
    const auto rows = static_cast<double>(timed.rows);
    // A verb's bound; a step's is the sum of its verbs', where these were timed. Of a GPU only the memory's
    // is known.
    const Case &whole = cases[0], &copied = cases[1];
    const std::size_t verbs = timed.plain_product ? 3 : 2;
    const auto bound_of = [&](const Case& one) {
        const double computing =
            timed.plain_product ? one.operations / one.narrow * cases[2].best / cases[2].operations : 0;
        return std::max(computing, one.memory * copied.best / copied.memory);
    };
    for (Case& one : std::span(cases).subspan(verbs)) cases[0].bound += one.bound = bound_of(one);
    if (cases.size() == verbs) cases[0].bound = bound_of(whole);
    nlohmann::ordered_json result = {
        {"kind", a.kind},
        {"rows", a.rows},
        {"n", a.n},
        {"width", a.width},
        {"k", a.k},
        {"l0_of_rank", static_cast<double>(step.sums.active) / rows},
        {"auxiliary_of_row", static_cast<double>(step.auxiliary_codes) / rows},
        {"dense", step.dense},
        {"density", timed.density},
        {"ranks", timed.ranks},
        {"device", timed.device},
        {"rows_per_second", static_cast<double>(a.rows) / whole.best},
        {"step_over_product",
         timed.plain_product ? nlohmann::ordered_json(whole.best / cases[2].best) : nullptr},
        {"encoder", a.cpu.encoder},
        {"checked", a.check},
        {"workspace_bytes", timed.workspace_bytes}};
    for (const Case& one : cases) {
        const std::string name = one.what.substr(one.what.find_first_not_of(' '));
        result["seconds"][name] = one.best;
        if (one.operations > 0) result["operations"][name] = one.operations;
        if (one.bytes > 0) result["bytes"][name] = one.bytes;
        if (one.bound > 0) result["share_of_bound"][name] = one.bound / one.best;
    }
    if (a.json) {
        fmt::print("{}\n", result.dump());
        return;
    }
    fmt::print("{}{}, B={} n={} M={} k={}, {} rank{}, {}; {:.1f} active{}, {}\n", a.kind,
               a.atm ? " + atm" : "", a.rows, a.n, a.width, a.k, timed.ranks, timed.ranks == 1 ? "" : "s",
               timed.device, static_cast<double>(step.sums.active) / rows,
               step.auxiliary_codes == 0
                   ? ""
                   : fmt::format(", {:.1f} auxiliary", static_cast<double>(step.auxiliary_codes) / rows),
               step.dense ? "dense products" : "lists of pairs");
    // A rate above the copy's comes out of caches; one above the product's out of narrower numbers.
    const auto rate = [](double amount, const Case& one) {
        return amount > 0 ? fmt::format("{:.1f}", amount / one.best / 1e9) : "";
    };
    fmt::print("{:<20} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "", "ms", "/ product", "Gop/s", "GB/s",
               "of bound");
    for (const Case& one : cases)
        fmt::print("{:<20} {:>10.2f} {:>10} {:>10} {:>10} {:>10}\n", one.what, 1e3 * one.best,
                   timed.plain_product ? fmt::format("{:.3f}", one.best / cases[2].best) : "",
                   rate(one.operations, one), rate(one.bytes, one),
                   one.bound > 0 ? fmt::format("{:.0f} %", 100 * one.bound / one.best) : "");
    fmt::print("{:.0f} rows/s; workspace {} MB above parameters, gradients and moments{}\n",
               static_cast<double>(a.rows) / whole.best, timed.workspace_bytes >> 20,
               a.check ? "; codes as by the float32 encoder" : "");
}

}  // namespace strata::cli
