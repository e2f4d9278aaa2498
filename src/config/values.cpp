#include "config/values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <concepts>

#include "config/nearest.h"

namespace strata::config {
namespace {

template <typename Number>
std::optional<Number> parse(std::string_view text) {
    if (text.starts_with('+')) text.remove_prefix(1);
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

bool is_word(const Accepts& accepts, std::string_view text) {
    for (const std::string_view word : accepts.words)
        if (word == text) return true;
    return false;
}

std::string complaint(std::string_view what, const Accepts& accepts, bool whole) {
    std::string line = fmt::format("{}; expected {}", what, expected(accepts, whole));
    if (!accepts.note.empty()) line += fmt::format(" ({})", accepts.note);
    return line;
}

// What is wrong with the form of a value that should be one scalar, or "".
std::string not_scalar(const YAML::Node& node) {
    if (node.IsNull()) return "has no value";
    if (node.IsSequence()) return "is a list";
    if (node.IsMap()) return "is a map";
    return "";
}

// The number in `text`, or what is wrong with it. A whole number is read as such where it can be, because a
// double holds no more than 53 bits of a seed.
template <typename Number>
std::string number_in(const std::string& text, const Accepts& accepts, Number& out) {
    constexpr bool whole = std::integral<Number>;
    const std::optional<Number> exact = parse<Number>(text);
    const std::optional<double> value = exact ? static_cast<double>(*exact) : parse<double>(text);
    if (!value || !std::isfinite(*value))
        return fmt::format("'{}' is not a {}number", text, whole ? "whole " : "");
    if (whole && std::floor(*value) != *value) return fmt::format("{} is not a whole number", text);
    if (*value < accepts.low || *value > accepts.high || (accepts.above && *value == accepts.low) ||
        (accepts.below && *value == accepts.high) || (whole && !exact && std::abs(*value) > largest_whole))
        return fmt::format("{} is out of range", text);
    out = exact ? *exact : static_cast<Number>(*value);
    return "";
}

template <typename Number>
std::string take_number(const YAML::Node& node, const Accepts& accepts, Number& out) {
    std::string wrong = not_scalar(node);
    if (wrong.empty()) wrong = number_in(node.Scalar(), accepts, out);
    return wrong.empty() ? "" : complaint(wrong, accepts, std::integral<Number>);
}

template <typename Number>
std::string take_optional(const YAML::Node& node, const Accepts& accepts, std::optional<Number>& out) {
    if (node.IsScalar() && is_word(accepts, node.Scalar())) {
        out.reset();
        return "";
    }
    Number value{};
    std::string wrong = take_number(node, accepts, value);
    if (wrong.empty()) out = value;
    return wrong;
}

}  // namespace

std::string take(const YAML::Node& node, const Accepts& accepts, std::int64_t& out) {
    return take_number(node, accepts, out);
}

std::string take(const YAML::Node& node, const Accepts& accepts, std::uint64_t& out) {
    return take_number(node, accepts, out);
}

std::string take(const YAML::Node& node, const Accepts& accepts, double& out) {
    return take_number(node, accepts, out);
}

std::string take(const YAML::Node& node, const Accepts& accepts, std::optional<std::int64_t>& out) {
    return take_optional(node, accepts, out);
}

std::string take(const YAML::Node& node, const Accepts& accepts, std::optional<double>& out) {
    return take_optional(node, accepts, out);
}

std::string take(const YAML::Node& node, const Accepts& accepts, std::string& out) {
    if (node.IsNull() && is_word(accepts, "null")) {
        out.clear();
        return "";
    }
    if (const std::string wrong = not_scalar(node); !wrong.empty()) return complaint(wrong, accepts, false);
    const std::string& text = node.Scalar();
    if (accepts.words.empty() || !accepts.described.empty()) {
        if (text.empty()) return complaint("is empty", accepts, false);
        out = text;
    } else if (is_word(accepts, text)) {
        out = text;
    } else if (accepts.number && parse<double>(text)) {
        double value{};
        if (const std::string wrong = number_in(text, accepts, value); !wrong.empty())
            return complaint(wrong, accepts, false);
        out = written(value);
    } else {
        std::string line = complaint(fmt::format("'{}' is not a value of this key", text), accepts, false);
        const std::string_view near = nearest(text, accepts.words);
        if (!near.empty()) line += fmt::format("; did you mean '{}'?", near);
        return line;
    }
    return "";
}

std::string take(const YAML::Node& node, const Accepts& accepts, std::vector<std::string>& out) {
    std::vector<std::string> items;
    const auto take_item = [&](const YAML::Node& item) -> std::string {
        const std::string wrong = not_scalar(item);
        if (!wrong.empty()) return fmt::format("an item {}", wrong);
        if (item.Scalar().empty()) return "an item is empty";
        items.push_back(item.Scalar());
        return "";
    };
    std::string wrong;
    if (node.IsSequence()) {
        for (const auto& item : node)
            if (wrong.empty()) wrong = take_item(item);
        if (wrong.empty() && items.empty()) wrong = "the list is empty";
    } else if (node.IsScalar() && !node.Scalar().empty() && !parse<double>(node.Scalar())) {
        items.push_back(node.Scalar());  // one name is a list of one
    } else {
        wrong = node.IsScalar() ? fmt::format("'{}' is not a list", node.Scalar()) : not_scalar(node);
    }
    if (!wrong.empty()) return complaint(wrong, accepts, false);
    out = std::move(items);
    return "";
}

std::string take_only(const YAML::Node& node, const Accepts& accepts) {
    for (const std::string_view word : accepts.words) {
        if (word == "null" && node.IsNull()) return "";
        if (!node.IsScalar()) continue;
        if (node.Scalar() == word || (word == "false" && !node.as<bool>(true))) return "";
        const auto number = parse<double>(word);
        if (number && parse<double>(node.Scalar()) == number) return "";
    }
    const std::string shape = not_scalar(node);
    return complaint(
        shape.empty() ? fmt::format("'{}' is not available in this version", node.Scalar()) : shape, accepts,
        false);
}

std::string expected(const Accepts& accepts, bool whole) {
    std::vector<std::string> choices(accepts.words.begin(), accepts.words.end());
    if (!accepts.described.empty()) choices.emplace_back(accepts.described);
    if (choices.empty() || accepts.number) {
        std::string text = whole ? "a whole number" : "a number";
        const bool high = accepts.high < (whole ? largest_whole : std::numeric_limits<double>::infinity());
        if (std::isfinite(accepts.low))
            text += fmt::format(" {} {}", accepts.above ? ">" : ">=", accepts.low);
        if (high) text += fmt::format(" and {} {}", accepts.below ? "<" : "<=", accepts.high);
        choices.push_back(text);
    }
    std::string line = choices.front();
    for (std::size_t i = 1; i < choices.size(); ++i)
        line += (i + 1 == choices.size() ? " or " : ", ") + choices[i];
    return line;
}

std::string written(std::int64_t value) {
    return fmt::format("{}", value);
}
std::string written(std::uint64_t value) {
    return fmt::format("{}", value);
}
std::string written(double value) {
    return fmt::format("{}", value);
}  // shortest that reads back the same

std::string written(const std::string& value) {
    if (value.empty()) return "null";
    // As the one item of a list, since a comma or a bracket needs quotes there only; without the list's
    // brackets.
    const std::string list = written(std::vector{value});
    return list.substr(1, list.size() - 2);
}

std::string written(const std::vector<std::string>& value) {
    YAML::Emitter emitter;
    emitter << YAML::Flow << value;
    return emitter.c_str();
}

std::string written(const std::optional<std::int64_t>& value) {
    return value ? written(*value) : "auto";
}
std::string written(const std::optional<double>& value) {
    return value ? written(*value) : "auto";
}

}  // namespace strata::config
