#include "base/memory.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace strata {
namespace {

TEST(Array, IsZeroedAndAlignedWhenMade) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{100}, huge_page / sizeof(float), huge_page}) {
        Array<float> array(size);
        ASSERT_EQ(array.size(), size);
        for (const float v : array) ASSERT_EQ(v, 0);
        const auto address = reinterpret_cast<std::uintptr_t>(array.data());
        EXPECT_EQ(address % (size * sizeof(float) >= huge_page ? huge_page : 64), 0U) << size;
    }
}

TEST(Array, ResetZeroesAndKeepsItsMemory) {
    Array<int> array(50);
    for (int& v : array) v = 7;
    const int* before = array.data();
    array.reset(30);
    EXPECT_EQ(array.data(), before);
    EXPECT_EQ(array.size(), 30U);
    for (const int v : array) EXPECT_EQ(v, 0);
    array.reset(0);
    EXPECT_EQ(array.size(), 0U);
}

TEST(Array, GrowKeepsWhatIsThere) {
    Array<int> array;
    int next = 0;
    for (const std::size_t size : {1, 2, 3, 10, 9, 100, 1000}) {
        const std::size_t before = std::min(array.size(), size);
        array.grow(size);
        ASSERT_EQ(array.size(), size);
        for (std::size_t i = 0; i < before; ++i) ASSERT_EQ(array[i], static_cast<int>(i));
        for (next = 0; next < static_cast<int>(size); ++next) array[static_cast<std::size_t>(next)] = next;
    }
    const int* at = array.data();
    array.grow(1001);
    const int* doubled = array.data();
    EXPECT_NE(at, doubled);
    array.grow(1900);
    EXPECT_EQ(array.data(), doubled) << "grew by less than doubling";
}

}  // namespace
}  // namespace strata
