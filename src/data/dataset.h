#pragma once
// Activation files: HDF5 datasets [rows, n] of float16, bfloat16 or float32, one name in one or several files making
// one long dataset in path order. Every rank opens the files itself, read-only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace strata::data {

enum class Type { float16, bfloat16, float32 };

std::size_t size_of(Type type);
const char* name_of(Type type);

// The rows of one name in one file.
struct FilePart {
    std::string path;
    std::int64_t first = 0;  // index of its first row in the dataset
    std::int64_t rows = 0;
    std::int64_t chunk_rows = 0;  // HDF5 chunk; 0: contiguous
    Type type = Type::float32;    // may differ between files
    bool checksummed = false;     // fletcher32
    std::string model, site;      // attributes, empty or -1 where absent
    std::int64_t layer = -1;
};

struct Dataset {
    std::string name;  // without a leading '/'
    std::int64_t rows = 0;
    std::int64_t n = 0;
    std::vector<FilePart> parts;
};

// Expands globs, opens every file, and returns each dataset that matches, in order of name (numbers by value, so
// layer 9 before 10). UsageError naming the thing and what to do: no file matches a pattern, unreadable file, not
// HDF5, truncated file, a name in no file, a name missing in some of the files that should hold it, not
// two-dimensional, unsupported element type, files of different n, no rows. Errors of all files at once.
std::vector<Dataset> find_datasets(const std::vector<std::string>& file_patterns,
                                   const std::vector<std::string>& name_patterns);

// Reads rows as they are on disk. Keeps up to a fixed number of files open. Not thread-safe (one per thread); the
// HDF5 library itself is locked where needed.
class Reader {
  public:
    explicit Reader(const Dataset& dataset);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // Rows [first, first + out.size() / n) as float32. RunError names file, dataset and rows.
    void read(std::int64_t first, std::span<float> out);

    // The same in the element type of the part that holds them; the rows must lie in one part. Returns that part.
    const FilePart& read_raw(std::int64_t first, std::int64_t rows, std::span<std::byte> out);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace strata::data
