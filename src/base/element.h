#pragma once
// Types of the elements of activation files.

#include <cstddef>

namespace strata {

enum class Element { float16, bfloat16, float32 };

constexpr std::size_t size_of(Element type) {
    return type == Element::float32 ? 4 : 2;
}

constexpr const char* name_of(Element type) {
    switch (type) {
        case Element::float16:
            return "float16";
        case Element::bfloat16:
            return "bfloat16";
        case Element::float32:
            break;
    }
    return "float32";
}

}  // namespace strata
