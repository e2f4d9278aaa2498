#pragma once
// The errors of one configuration, collected so that they are told all at once.

#include <string>
#include <string_view>
#include <vector>

namespace strata::config {

// Where a value was written.
struct Origin {
    int line = 1;  // of the file; 0: in a --set option
    std::string key;
};

class Errors {
  public:
    explicit Errors(std::string file) : file_(std::move(file)) {}

    void add(const Origin& origin, std::string_view what);
    bool empty() const { return list_.empty(); }
    // UsageError with a line for each error, by line of the file, options last. Does nothing if there is
    // none.
    void raise();

  private:
    struct Error {
        int line;
        std::string text;
        bool operator==(const Error&) const = default;
    };
    std::string file_;
    std::vector<Error> list_;
};

}  // namespace strata::config
