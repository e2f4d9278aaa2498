#pragma once
// Large arrays: 2 MiB aligned, huge pages asked for, allocated once and kept. First touch of fresh memory
// costs up to 10 us a page on virtual machines, so nothing of a step's size is ever allocated inside a step.

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <utility>

#include <sys/mman.h>

namespace strata {

inline constexpr std::size_t huge_page = std::size_t{1} << 21;

// Zero pages that take no memory until they are written; begins at a huge page. Null where there is no room.
// To be given back with munmap.
void* map_zeroed(std::size_t bytes);

struct FreeMemory {
    std::size_t mapped = 0;  // bytes; 0: of the heap
    void operator()(void* p) const noexcept {
        if (mapped > 0)
            munmap(p, mapped);
        else
            std::free(p);
    }
};

// An owned array of trivially copyable T, zeroed when made. Large ones are the system's pages: what is
// outgrown goes back to it, where in the heap it would lie between other arrays, too small to be used again.
template <typename T>
class Array {
  public:
    Array() = default;
    explicit Array(std::size_t size) { reset(size); }

    // Drops the contents; allocates only if `size` exceeds the capacity.
    void reset(std::size_t size) {
        if (size > capacity_) allocate(size);
        size_ = size;
        for (std::size_t i = 0; i < size_; ++i) data_.get()[i] = T{};
    }

    // Keeps the first `size` elements of the present contents, growing by doubling; what follows them has any
    // values, and large arrays take memory for what is written.
    void grow(std::size_t size) {
        if (size > capacity_) {
            Array larger;
            larger.allocate(std::max(size, 2 * capacity_));
            for (std::size_t i = 0; i < size_; ++i) larger.data()[i] = data()[i];
            larger.size_ = size;
            *this = std::move(larger);
        }
        size_ = size;
    }

    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    std::size_t size() const { return size_; }
    T& operator[](std::size_t i) { return data_.get()[i]; }
    const T& operator[](std::size_t i) const { return data_.get()[i]; }
    T* begin() { return data(); }
    T* end() { return data() + size_; }
    const T* begin() const { return data(); }
    const T* end() const { return data() + size_; }
    operator std::span<T>() { return {data(), size_}; }
    operator std::span<const T>() const { return {data(), size_}; }

  private:
    void allocate(std::size_t size) {
        const bool mapped = size * sizeof(T) >= huge_page;
        const std::size_t unit = mapped ? huge_page : 64;
        const std::size_t bytes = (size * sizeof(T) + unit - 1) / unit * unit;
        void* const p = mapped ? map_zeroed(bytes) : std::aligned_alloc(unit, bytes);
        if (p == nullptr) throw std::bad_alloc();
        data_ = {static_cast<T*>(p), FreeMemory{mapped ? bytes : 0}};
        capacity_ = size;
    }

    std::unique_ptr<T, FreeMemory> data_;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

// For a whole program, once: keeps freed memory. Blocks over 32 MiB would otherwise go back to the system on
// every free, and their pages fault again on every use (docs/design.md, "Memory").
void keep_freed_memory();

}  // namespace strata
