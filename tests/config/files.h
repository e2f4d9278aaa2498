#pragma once
// Configurations in temporary files.

#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "config/config.h"
#include "support/folder.h"

namespace strata::test {

// The least that a configuration must say; three lines.
inline const std::string least = "run: {output: runs/x}\ndata:\n  {files: [a.h5], datasets: [b]}\n";

inline Config load(const std::string& text, const std::vector<std::string>& options = {}) {
    const Folder folder;
    const auto path = folder / "run.yaml";
    std::ofstream(path, std::ios::binary) << text;
    return load_config(path, options);
}

// What load_config complains of, the file being called `run.yaml`; "" if nothing.
inline std::string complaint(const std::string& text, const std::vector<std::string>& options = {}) {
    const Folder folder;
    const std::string path = folder / "run.yaml";
    std::ofstream(path, std::ios::binary) << text;
    try {
        load_config(path, options);
    } catch (const UsageError& error) {
        std::string message = error.what();
        for (std::size_t at; (at = message.find(path)) != std::string::npos;)
            message.replace(at, path.size(), "run.yaml");
        return message;
    }
    return "";
}

}  // namespace strata::test
