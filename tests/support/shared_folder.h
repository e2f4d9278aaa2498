#pragma once
// A folder that all ranks use and that goes away when all have finished. Its name is its own, so that several
// runs of the tests on a machine do not meet.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "support/folder.h"

namespace strata::test {

class SharedFolder {
  public:
    explicit SharedFolder(Communicator& comm) : comm_(comm) {
        std::string path(4096, '\0');
        if (comm.rank() == 0) {
            own_.emplace();
            path.replace(0, (*own_ / "").string().size(), (*own_ / "").string());
        }
        comm.broadcast(std::as_writable_bytes(std::span(path)), 0);
        path_ = path.c_str();
    }
    ~SharedFolder() { comm_.barrier(); }
    SharedFolder(const SharedFolder&) = delete;
    SharedFolder& operator=(const SharedFolder&) = delete;
    std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  private:
    Communicator& comm_;
    std::optional<Folder> own_;  // rank 0
    std::filesystem::path path_;
};

}  // namespace strata::test
