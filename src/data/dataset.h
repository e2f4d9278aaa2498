#pragma once
// Activation files: HDF5 datasets [rows, n] of float16, bfloat16 or float32, one name in one or several files
// making one long dataset in path order. Every rank opens the files itself, read-only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/element.h"

namespace strata::data {

class CorruptChunks;
class SharedRows;

using Type = Element;
using strata::name_of;
using strata::size_of;

// The rows of one name in one file.
struct FilePart {
    std::string path;
    std::int64_t first = 0;  // index of its first row in the dataset
    std::int64_t rows = 0;
    std::int64_t chunk_rows = 0;  // HDF5 chunk; 0: contiguous
    Type type = Type::float32;    // may differ between files
    bool checksummed = false;     // fletcher32
    bool virtual_rows = false;    // the file maps rows of other files (an HDF5 virtual dataset)
    std::string filters;          // names of the HDF5 filters, with spaces between
    std::string model, site;      // attributes, empty or -1 where absent
    std::int64_t layer = -1;
    double mean_sq_norm = -1;  // E|x|^2 as the writer measured it
};

struct Dataset {
    std::string name;  // without a leading '/'
    std::int64_t rows = 0;
    std::int64_t n = 0;
    std::vector<FilePart> parts;
    // What its rows are to be turned into, row by row; nullptr: themselves. Of the same n, in as many parts
    // of as many rows; element types and chunks may differ.
    std::shared_ptr<const Dataset> target = nullptr;
    // Where corrupt rows are left out (corrupt.h); nullptr: they are errors. Copies share it.
    std::shared_ptr<CorruptChunks> corrupt = nullptr;
    // Through which several groups of ranks of this host read it once (shared_rows.h), and under which
    // number; nullptr: every reader reads for itself.
    std::shared_ptr<SharedRows> shared = nullptr;
    std::uint32_t number = 0;
};

// Expands globs, opens every file, and returns each dataset that matches, in order of name (numbers by value,
// so layer 9 before 10). Files are taken in byte order of their paths, each once.
//
// In names `*` stops at a '/', so `resid_post/*` is every layer of a site and `*/*` every layer of every
// site; `**` does not stop. A glob passes over what is not two-dimensional, over integers, and over
// `true_features`.
//
// The files may split the rows (each holds all names), the names (each layer its own file), or both. They may
// not disagree: where one file holds two of the names, every file with one of them must hold the other, for
// the layers would have different rows.
//
// `target`, unless empty, names the dataset that becomes `target` of each match; one `*` in it stands for
// what follows the last '/' of the match's name. Targets need not match `name_patterns`, and may lie in files
// of their own.
//
// `skip_corrupt`: whoever reads the datasets leaves corrupt rows out.
//
// UsageError naming the thing and what to do: no file matches a pattern, unreadable file, not HDF5, truncated
// file, a name in no file, a file without any of the names, a name missing as said above, not
// two-dimensional, unsupported element type, files of different n, no rows, a target of other rows or of
// another n. Errors of all files at once.
std::vector<Dataset> find_datasets(const std::vector<std::string>& file_patterns,
                                   const std::vector<std::string>& name_patterns,
                                   const std::string& target = {}, bool skip_corrupt = false);

// The name that `target` gives to the target of a dataset.
std::string target_name(const std::string& target, const std::string& dataset);

// Reads rows as they are on disk. Keeps up to 64 files open. Not thread-safe (one per thread); the HDF5
// library itself is locked where needed. Checksums are verified by the reading, where the file has them.
// Rows that cannot be read are an error; where corrupt ones are left out, they are reported, and NaN.
class Reader {
  public:
    explicit Reader(const Dataset& dataset);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // Rows [first, first + out.size() / n) as float32, unscaled. RunError names file, dataset and rows (those
    // of the file) and says why.
    void read(std::int64_t first, std::span<float> out);

    // The same in the element type of the part that holds them; the rows must lie in one part and `out` have
    // their size exactly. Returns that part.
    const FilePart& read_raw(std::int64_t first, std::int64_t rows, std::span<std::byte> out);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// The part that holds a row; row in [0, dataset.rows).
const FilePart& part_of(const Dataset& dataset, std::int64_t row);

// `file.h5: resid_post/12: row 17`, for messages; the row counted in its file.
std::string place_of(const Dataset& dataset, std::int64_t row);

}  // namespace strata::data
