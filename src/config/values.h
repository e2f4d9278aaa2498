#pragma once
// One value of the configuration: what a key accepts, YAML to value, value to YAML.

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::config {

// Whole numbers end where a double stops holding each of them (1e6 is a whole number, too); sums of two stay
// far from overflow.
inline constexpr double largest_whole = 9007199254740992.0;

struct Accepts {
    double low = -std::numeric_limits<double>::infinity();
    double high = std::numeric_limits<double>::infinity();
    bool above = false;  // not `low` itself
    bool below = false;  // not `high` itself
    // Beside a number where `number`, beside any text where `text`, else instead of one.
    std::vector<std::string_view> words = {};
    bool number = false;
    bool text = false;                // any text beside `words`
    std::string_view described = {};  // of text and lists: what it stands for
    std::string_view note = {};       // ends a complaint, in brackets: why nothing else is accepted
};

// Sets `out`, or returns what is wrong as "'forty' is not a number; expected a whole number >= 1". `out`
// keeps its value then. One for each type that a field of Config has.
std::string take(const YAML::Node& node, const Accepts& accepts, std::int64_t& out);
std::string take(const YAML::Node& node, const Accepts& accepts, std::uint64_t& out);
std::string take(const YAML::Node& node, const Accepts& accepts, double& out);
std::string take(const YAML::Node& node, const Accepts& accepts, bool& out);
// An empty text or list of numbers stands for null, where that is among the words.
std::string take(const YAML::Node& node, const Accepts& accepts, std::string& out);
std::string take(const YAML::Node& node, const Accepts& accepts, std::vector<double>& out);
std::string take(const YAML::Node& node, const Accepts& accepts, std::vector<std::string>& out);
// nullopt is written as the first of the words: `auto` or `null`.
std::string take(const YAML::Node& node, const Accepts& accepts, std::optional<std::int64_t>& out);
std::string take(const YAML::Node& node, const Accepts& accepts, std::optional<double>& out);

// The same for a key that has no field: its value must be one of `words` (null, false and 0 in any spelling
// of YAML).
std::string take_only(const YAML::Node& node, const Accepts& accepts);

// "a whole number from 1 to 4096", "mean or zero".
std::string expected(const Accepts& accepts, bool whole);

// "a, b or c".
std::string one_of(std::span<const std::string_view> choices);

// YAML that `take` reads back to the same value; on one line and fit for a flow collection.
std::string written(std::int64_t value);
std::string written(std::uint64_t value);
std::string written(double value);
std::string written(const std::string& value);
std::string written(bool value);
std::string written(const std::vector<double>& value);
std::string written(const std::vector<std::string>& value);

}  // namespace strata::config
