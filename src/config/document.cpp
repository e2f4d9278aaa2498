#include "config/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "config/keys.h"

namespace strata::config {
namespace {

// The message of the parser, and what usually lies behind it.
std::string syntax(const YAML::ParserException& error, const std::string& source) {
    std::string text = "not YAML: " + error.msg;
    if (source.find("\n\t") != std::string::npos) text += "; YAML is indented with spaces, not tabs";
    if (error.msg.find("anchor") != std::string::npos) text += "; a value that begins with '*' needs quotes";
    return text;
}

YAML::Node parse_file(const std::string& file) {
    if (std::filesystem::is_directory(file)) refuse("{}: is a folder; expected a YAML file", file);
    std::string text;
    try {
        text = read_file(file);
    } catch (const RunError& error) {
        throw UsageError(error.what());
    }
    try {
        const std::vector<YAML::Node> documents = YAML::LoadAll(text);
        if (documents.size() > 1) refuse("{}: holds {} YAML documents; expected one", file, documents.size());
        return documents.empty() ? YAML::Node() : documents.front();
    } catch (const YAML::ParserException& error) {
        refuse("{}:{}:{}: {}", file, error.mark.line + 1, error.mark.column + 1, syntax(error, text));
    } catch (const YAML::Exception& error) {
        refuse("{}:1: not YAML: {}", file, error.what());
    }
}

void read_section(const std::string& section, const Value& value, Document& document, Errors& errors);

void read_key(const std::string& section, const std::string& name, const Value& value, Document& document,
              Errors& errors) {
    if (find_key(section, name) == nullptr) {
        errors.add(value.origin, fmt::format("unknown key; {}", hint(section, name)));
        return;
    }
    const std::string full = section + "." + name;
    if (is_section(full)) {  // a new map keeps nothing of the one before
        std::erase_if(document.values, [&](const auto& item) { return item.first.starts_with(full + "."); });
        if (value.node.IsMap()) read_section(full, value, document, errors);
    } else {
        document.values.erase(section);  // a map said to be null, before a key of it was given
    }
    // Assigned to, a node would change under all aliases of it.
    document.values.erase(full);
    document.values.emplace(full, value);
}

void read_section(const std::string& section, const Value& value, Document& document, Errors& errors) {
    if (value.origin.line > 0) document.section_lines[section] = value.origin.line;
    if (value.node.IsNull()) return;  // a section whose keys are all commented out
    if (!value.node.IsMap()) {
        errors.add(value.origin,
                   fmt::format("is not a section; expected keys under it ({})", hint(section, "")));
        return;
    }
    each_pair(value.node, value.origin, errors, [&](const std::string& name, const Value& item) {
        read_key(section, name, item, document, errors);
    });
}

void read_top(const std::string& name, const Value& value, Document& document, Errors& errors) {
    if (is_section(name) && !is_inside(name))
        read_section(name, value, document, errors);
    else if (name == "suite")
        document.suite.emplace(value);
    else
        errors.add(value.origin, fmt::format("unknown key; {}", hint("", name)));
}

void read_option(const std::string& option, Document& document, Errors& errors) {
    const std::size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    const Origin origin{0, key};
    if (equals == std::string::npos) {
        errors.add(origin, "no value; expected section.key=value");
        return;
    }
    Value value{{}, origin};
    try {
        value.node = YAML::Load(option.substr(equals + 1));
    } catch (const YAML::ParserException& error) {
        errors.add(origin, syntax(error, ""));
        return;
    } catch (const YAML::Exception& error) {
        errors.add(origin, fmt::format("not YAML: {}", error.what()));
        return;
    }
    std::size_t dot = key.rfind('.');
    if (dot != std::string::npos && !is_section(key.substr(0, dot))) dot = key.find('.');
    if (dot == std::string::npos) {
        read_top(key, value, document, errors);
        return;
    }
    const std::string section = key.substr(0, dot);
    const std::string name = key.substr(dot + 1);
    if (section == "suite")
        errors.add(origin,
                   "a suite has no keys of its own; expected suite=[{...}, ...], or the key in section sae");
    else if (!is_section(section))
        errors.add(origin, fmt::format("unknown section '{}'; {}", section, hint("", section)));
    else
        read_key(section, name, value, document, errors);
}

}  // namespace

int line_of(const YAML::Node& node, const Origin& origin) {
    if (origin.line == 0) return 0;
    return node.Mark().is_null() || node.IsNull() ? origin.line : node.Mark().line + 1;
}

void each_pair(const YAML::Node& map, const Origin& origin, Errors& errors,
               const std::function<void(const std::string&, const Value&)>& use) {
    const std::string prefix = origin.key.empty() ? "" : origin.key + ".";
    std::set<std::string> seen;
    for (const auto& pair : map) {
        const Origin at{line_of(pair.first, origin),
                        prefix + (pair.first.IsScalar() ? pair.first.Scalar() : "[...]")};
        if (!pair.first.IsScalar() || pair.first.Scalar().empty())
            errors.add(at, "a key is not a name; expected `name: value`");
        else if (!seen.insert(pair.first.Scalar()).second)
            errors.add(at, "stands twice; expected each key once");
        else
            use(pair.first.Scalar(), {pair.second, at});
    }
}

Document read_document(const std::string& file, const std::vector<std::string>& options, Errors& errors) {
    Document document;
    const YAML::Node root = parse_file(file);
    if (!root.IsNull() && !root.IsMap())
        refuse("{}:{}: is not a configuration; expected sections ({})", file, root.Mark().line + 1,
               hint("", ""));
    if (root.IsMap())
        each_pair(root, {1, ""}, errors, [&](const std::string& name, const Value& value) {
            read_top(name, value, document, errors);
        });
    for (const std::string& option : options) read_option(option, document, errors);
    return document;
}

}  // namespace strata::config
