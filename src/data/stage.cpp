#include "data/stage.h"

#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/stop.h"
#include "comm/agree.h"

namespace strata::data {
namespace {

namespace fs = std::filesystem;

fs::path copy_of(const fs::path& file, const fs::path& folder) {
    return folder / fs::weakly_canonical(file).relative_path();
}

void bring(const fs::path& file, const fs::path& to) {
    if (fs::exists(to) && fs::file_size(to) == fs::file_size(file) &&
        fs::last_write_time(to) == fs::last_write_time(file))
        return;
    log::info("{}: copying to {}", file.string(), to.string());
    // Another job may copy the same file.
    const fs::path unfinished = to.string() + fmt::format(".{}.tmp", ::getpid());
    try {
        fs::create_directories(to.parent_path());
        fs::copy_file(file, unfinished, fs::copy_options::overwrite_existing);
        fs::last_write_time(unfinished, fs::last_write_time(file));
        fs::rename(unfinished, to);
    } catch (const fs::filesystem_error& e) {
        std::error_code ignored;
        fs::remove(unfinished, ignored);
        fail("{}: cannot copy to {}: {}; choose another data.stage, or none", file.string(), to.string(),
             e.code().message());
    }
}

}  // namespace

void stage(const Dataset& dataset, const fs::path& folder) {
    for (const FilePart& part : dataset.parts) {
        if (part.virtual_rows)
            fail(
                "{}: maps rows of other files, which a copy in data.stage ({}) would not find; name those "
                "files in "
                "data.files, or leave data.stage at null",
                part.path, folder.string());
        if (stop_requested()) {
            log::warn("stopped on request, or short of the time limit, before {} was copied to {}", part.path,
                      folder.string());
            throw Ended{exit_stopped};
        }
        bring(part.path, copy_of(part.path, folder));
    }
    if (dataset.target) stage(*dataset.target, folder);
}

Dataset staged(const Dataset& dataset, const fs::path& folder) {
    Dataset copies = dataset;
    for (FilePart& part : copies.parts) part.path = copy_of(part.path, folder).string();
    if (dataset.target) copies.target = std::make_shared<Dataset>(staged(*dataset.target, folder));
    return copies;
}

}  // namespace strata::data
