#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "cli/bench.h"
#include "data/dataset.h"
#include "device/cpu/kernels.h"

namespace strata::cli {

FixedBatch make_batch(const BenchArguments& a, const Communicator& comm) {
    const std::int64_t first = a.rows * comm.rank() / comm.size();
    const std::int64_t last = a.rows * (comm.rank() + 1) / comm.size();
    Array<float> x(static_cast<std::size_t>((last - first) * a.n));
    if (!a.files.empty()) {
        const std::vector<data::Dataset> found = data::find_datasets(a.files, {a.dataset});
        if (found.front().n != a.n)
            refuse("--n {}: dataset '{}' has rows of {}", a.n, found.front().name, found.front().n);
        if (found.front().rows < a.rows)
            refuse("--rows {}: dataset '{}' has {}", a.rows, found.front().name, found.front().rows);
        data::Reader(found.front()).read(first, x);
    } else {
        constexpr std::int64_t directions = 2048;
        constexpr int active = 24;
        std::vector<float> basis(static_cast<std::size_t>(directions * a.n));
        Random random(0, Purpose::synthetic);
        for (float& v : basis) v = random.normal();
        for (std::int64_t b = first; b < last; ++b) {
            Random row(0, Purpose::synthetic, static_cast<std::uint64_t>(b) + 1);
            for (int i = 0; i < active; ++i) {
                const std::uint32_t j = row.below(directions);
                const float weight = -std::log(1.0F - row.uniform());
                device::kernels().add(basis.data() + j * a.n, weight, a.n, x.data() + (b - first) * a.n);
            }
        }
    }
    // A few sinks would set the scale of real rows: the median norm does not mind them.
    std::vector<float> norms;
    for (std::int64_t b = 0; b < last - first; ++b)
        norms.push_back(std::sqrt(device::kernels().dot(x.data() + b * a.n, x.data() + b * a.n, a.n)));
    std::vector<float> sorted = norms;
    std::ranges::nth_element(sorted, sorted.begin() + std::ssize(sorted) / 2);
    const float median = sorted[sorted.size() / 2];
    for (std::int64_t b = 0; b < last - first; ++b)
        device::kernels().multiply(1.0F / std::max(median, norms[static_cast<std::size_t>(b)] / 10), a.n,
                                   x.data() + b * a.n);
    return {std::move(x), 1 / static_cast<double>(median)};
}

}  // namespace strata::cli
