#include "train/tensorboard.h"

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/tensorboard.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "events.out.tfevents.";

// TensorBoard reads the files of a folder in the order of their names, which begin with the second that they
// were made in; two may be made in one second.
fs::path new_file(const fs::path& folder, double time) {
    auto number = static_cast<std::int64_t>(time);
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename();
        std::int64_t found = 0;
        if (!name.starts_with(prefix)) continue;
        if (std::from_chars(name.data() + prefix.size(), name.data() + name.size(), found).ec == std::errc())
            number = std::max(number, found + 1);
    }
    return folder / fmt::format("{}{:010}.strata", prefix, number);
}

void append(const fs::path& path, const std::string& bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::app);
    out << bytes << std::flush;
    if (!out) fail("{}: cannot write: {}", path.string(), std::strerror(errno));
}

}  // namespace

void TensorboardFiles::write(const Metrics& metrics) {
    const double time =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    fs::path& path = files_[metrics.sae];
    if (path.empty()) {
        const fs::path folder = folder_ / metrics.sae;
        std::error_code error;
        fs::create_directories(folder, error);
        if (error) fail("{}: cannot make the folder: {}", folder.string(), error.message());
        path = new_file(folder, time);
        append(path, tensorboard::start_of_file(time, metrics.step));
    }
    std::vector<tensorboard::Scalar> scalars;
    const nlohmann::ordered_json line = to_json(metrics);
    for (const auto& [name, value] : line.items())
        if (name != "step" && value.is_number()) scalars.push_back({name, value.get<float>()});
    append(path, tensorboard::record_of(time, metrics.step, scalars));
}

}  // namespace strata::train
