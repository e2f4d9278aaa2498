#include "suite/most.h"

#include <algorithm>

#include "sae/sae.h"

namespace strata::suite {

Most most_of(const Job& job, std::int64_t rows) {
    Most most;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, job.dataset.n, job.dataset.target != nullptr);
        const sae::Kind& kind = sae::kind_of(sae.kind);
        most.width = std::max(most.width, shape.width);
        most.per_latent = std::max(most.per_latent, shape.per_latent);
        most.groups = std::max(most.groups, shape.groups());
        most.skip = most.skip || shape.skip;
        // Lists of an elementwise kind begin where its share of active pairs falls to dense_share, a range of
        // rows at a time. Its second set: pairs in the window, or of the gate.
        const double listed = sae::dense_share(shape, sae.kind == "gated") * static_cast<double>(sae.width);
        const double codes =
            kind.elementwise() ? std::min(listed, static_cast<double>(sae::most_list_pairs / rows)) : sae.k;
        const int sets = 1 + (kind.per_latent > 0 ? 1 : 0) + (sae.atm ? 1 : 0);
        most.codes_of_row = std::max(most.codes_of_row, sets * codes);
        if (kind.elementwise())
            most.listed = std::max(most.listed, codes * static_cast<double>(rows));
        else
            most.selected_of_row = std::max(most.selected_of_row, sets * codes);
        most.windows = most.windows || sae.kind == "jumprelu";
        if (!kind.elementwise() && sae.aux_coefficient > 0)
            most.aux_k = std::max(most.aux_k, sae::auxiliary_codes(sae, job.dataset.n));
        if (kind.inference == sae::Inference::row_top)
            most.row_top = std::max(most.row_top, static_cast<std::int64_t>(sae.k));
        if (kind.elementwise()) most.dense = std::max<std::int64_t>(most.dense, sae.kind == "gated" ? 3 : 2);
        most.batch_rule = most.batch_rule || kind.inference == sae::Inference::threshold;
    }
    most.row_top = std::max(most.row_top, most.aux_k);
    return most;
}

std::int64_t rows_of_rank(const Config& config, int ranks) {
    const std::int64_t batch = config.train.batch_size, all = config.data.lanes;
    const std::int64_t lanes = std::min(all, (all + ranks - 1) / ranks);
    return std::max((lanes * batch + all - 1) / all, batch / ranks + 1);
}

std::int64_t small_elements(const device::Shape& shape) {
    return (1 + shape.per_latent) * shape.width + shape.n + (shape.skip ? shape.n * shape.n : 0);
}

}  // namespace strata::suite
