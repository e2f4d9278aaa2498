#include "config/kinds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sae/kind.h"

namespace strata {
namespace {

// The two lists are apart so that a configuration can be checked without devices; they must not drift.
TEST(Kinds, AreThoseThatCanBeTrained) {
    std::vector<std::string_view> trained;
    for (const sae::Kind& kind : sae::kinds()) trained.push_back(kind.name);
    EXPECT_THAT(config::known_kinds(), testing::ElementsAreArray(trained));
}

}  // namespace
}  // namespace strata
