#pragma once
// Writes activation files: chunked by rows, fletcher32 checksums, attributes; whole or not at all.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace strata::data {

struct NewDataset {
    std::string name;  // groups in it are made, as `resid_post` for `resid_post/12`
    std::int64_t n = 0;
    Type type = Type::float16;
    std::string model, site;  // attributes; left away where empty or negative
    std::int64_t layer = -1;
};

// The file appears under its own name only when finish() has returned; until then it is `path` + ".tmp",
// removed if finish() is never reached. UsageError if `path` exists already; RunError, naming it and the
// reason, if writing fails.
class Writer {
  public:
    explicit Writer(const std::filesystem::path& path);
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    // Begins a dataset of no rows; several may grow side by side. Returns its number.
    std::size_t add(const NewDataset& dataset);

    // Appends rows [rows.size() / n, n], rounded to the dataset's type. Any number of rows at a time; the
    // file does not depend on it.
    void append(std::size_t dataset, std::span<const float> rows);

    // A whole array beside the activations, float32, not chunked.
    void put(const std::string& name, const std::vector<std::int64_t>& shape, std::span<const float> values);

    // A text attribute of the whole file.
    void put_text(const std::string& name, const std::string& text);

    // Writes the mean squared norm of each dataset's rows, syncs, closes and renames. Nothing may follow.
    void finish();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace strata::data
