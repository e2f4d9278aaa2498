#pragma once
// Datasets that no file holds, for what only counts them.

#include <string>
#include <vector>

#include "data/dataset.h"

namespace strata::test {

inline std::vector<data::Dataset> datasets_of(int count) {
    std::vector<data::Dataset> datasets;
    for (int i = 0; i < count; ++i) {
        data::Dataset& dataset = datasets.emplace_back();
        dataset.name = "resid_post/" + std::to_string(i);
        dataset.n = 64;
        dataset.rows = 100000;
        data::FilePart& part = dataset.parts.emplace_back();
        part.rows = dataset.rows;
        part.type = data::Type::float16;
    }
    return datasets;
}

}  // namespace strata::test
