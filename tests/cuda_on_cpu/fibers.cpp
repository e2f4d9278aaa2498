// A kernel's threads as fibers: each runs until it waits for others, at a barrier of the block or an
// operation of its warp, and the next one goes on. Contexts are left by setjmp and entered by longjmp, which
// make no system call, as swapcontext does; swapcontext is for the first entry alone.

#undef _FORTIFY_SOURCE  // its longjmp refuses to go up another stack

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_on_cpu.h"
#include "state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// ThreadSanitizer's, where it is linked (the preset tsan): to it each fiber is a thread, so that it finds
// what two threads of a block do to one place without a barrier between them. This file itself it does not
// watch.
extern "C" {
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* place);
__attribute__((weak)) void __tsan_release(void* place);
}

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
constexpr std::size_t shared_bytes = 227 * 1024, shared_guard = 256;
__attribute__((aligned(1024))) unsigned char strata_shared[shared_bytes + shared_guard];

namespace cuda_on_cpu {
namespace {

constexpr unsigned most_threads = 1024, lanes = 32;
constexpr std::size_t stack_bytes = std::size_t{1} << 17, guard_bytes = 4096;

std::uint64_t seed_at_first() {
    const char* seed = std::getenv("CUDA_ON_CPU_ORDER");
    return seed != nullptr ? std::strtoull(seed, nullptr, 10) : 0;
}

enum class State : char { ready, at_warp, at_barrier, done };

using Context = void* [5];

struct Fiber {
    Context context;
    std::byte* stack = nullptr;
    void* fake_stack = nullptr;  // of AddressSanitizer
    void* watched = nullptr;     // ThreadSanitizer's fiber
};

struct Warp {
    Exchanged given;
    std::array<Exchanged, 2> taken;
    unsigned arrived = 0, turn = 0;
    const char* what = "";
};

struct Grid {
    std::array<Fiber, most_threads> fibers;
    Context host;
    void* host_fake_stack = nullptr;
    const void* host_stack = nullptr;
    std::size_t host_stack_size = 0;
    void* host_watched = nullptr;
    const std::function<void()>* thread = nullptr;
    const void* kernel = nullptr;
    unsigned threads = 0, alive = 0, waiting = 0, current = 0;  // current: a thread
    unsigned barrier_turn = 0;
    std::array<State, most_threads> state;
    std::array<unsigned, most_threads> order, place;  // of threads; where a thread stands in it
    std::array<Warp, most_threads / lanes> warps;
    std::uint64_t seed = seed_at_first(), launches = 0;
};

Grid the_grid;

Grid& grid() {
    return the_grid;
}

// What who calls release() has done is done for who calls acquire() of the same place after it.
void release(void* place) {
    if (__tsan_release != nullptr) __tsan_release(place);
}
void acquire(void* place) {
    if (__tsan_acquire != nullptr) __tsan_acquire(place);
}
// Places that stand for the beginning of a block, its end, and barriers in turn: threads come to the next one
// while others are still to leave the one before.
char block_begins, block_ended, barriers[2];

void begin_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack,
                  [[maybe_unused]] std::size_t size, void* watched) {
    constexpr unsigned no_order = 1;  // is made by the switch itself
    if (__tsan_switch_to_fiber != nullptr) __tsan_switch_to_fiber(watched, no_order);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}

void end_switch([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(fake, &stack, &size);
    if (grid().host_stack == nullptr) {
        grid().host_stack = stack;
        grid().host_stack_size = size;
    }
#endif
}

// Not from the function that made the context.
[[noreturn]] __attribute__((noinline)) void enter_context(Context& context) {
    __builtin_longjmp(context, 1);
}

// Leaves the fiber of `from` for that of `to`.
__attribute__((noinline)) void go(unsigned from, unsigned to) {
    Grid& g = grid();
    if (from == to) return;
    g.current = to;
    threadIdx.x = to;
    if (__builtin_setjmp(g.fibers[from].context) != 0) {
        end_switch(g.fibers[g.current].fake_stack);
        return;
    }
    begin_switch(&g.fibers[from].fake_stack, g.fibers[to].stack, stack_bytes, g.fibers[to].watched);
    enter_context(g.fibers[to].context);
}

__attribute__((noinline)) void go_to_host(unsigned from) {
    Grid& g = grid();
    if (__builtin_setjmp(g.fibers[from].context) != 0) {
        end_switch(g.fibers[g.current].fake_stack);
        return;
    }
    begin_switch(&g.fibers[from].fake_stack, g.host_stack, g.host_stack_size, g.host_watched);
    enter_context(g.host);
}

__attribute__((noinline)) void go_from_host(unsigned to) {
    Grid& g = grid();
    g.current = to;
    threadIdx = {to, 0, 0};
    g.host_stack = nullptr;
    if (__builtin_setjmp(g.host) != 0) {
        end_switch(g.host_fake_stack);
        return;
    }
    begin_switch(&g.host_fake_stack, g.fibers[to].stack, stack_bytes, g.fibers[to].watched);
    enter_context(g.fibers[to].context);
}

[[noreturn]] void report_stuck() {
    const Grid& g = grid();
    for (unsigned t = 0; t < g.threads; ++t)
        if (g.state[t] == State::at_warp)
            die("%s: lanes %08x of warp %u wait in %s for lanes that left or wait elsewhere", running(),
                g.warps[t / lanes].arrived, t / lanes, g.warps[t / lanes].what);
    die("%s: %u threads wait in __syncthreads for %u others", running(), g.waiting, g.alive - g.waiting);
}

// A thread that can go on, the next one in order; `threads` if all are done.
unsigned next_ready() {
    const Grid& g = grid();
    const unsigned from = g.place[g.current];
    for (unsigned i = 1; i <= g.threads; ++i) {
        const unsigned at = from + i < g.threads ? from + i : from + i - g.threads;
        if (g.state[g.order[at]] == State::ready) return g.order[at];
    }
    if (g.alive > 0) report_stuck();
    return g.threads;
}

void release_barrier() {
    Grid& g = grid();
    g.waiting = 0;
    g.barrier_turn ^= 1U;
    for (unsigned t = 0; t < g.threads; ++t)
        if (g.state[t] == State::at_barrier) g.state[t] = State::ready;
}

// A fiber for ever: a thread of one block after another.
void run_thread(unsigned self) {
    Grid& g = grid();
    for (;;) {
        go_to_host(self);
        for (;;) {
            acquire(&block_begins);
            (*g.thread)();
            release(&block_ended);
            g.state[self] = State::done;
            --g.alive;
            if (g.waiting > 0 && g.waiting == g.alive) release_barrier();
            const unsigned next = next_ready();
            if (next == g.threads) break;
            go(self, next);
        }
    }
}

ucontext_t starter;

void enter(unsigned self) {
    end_switch(nullptr);
    run_thread(self);
}

void start_fiber(unsigned self) {
    Grid& g = grid();
    Fiber& fiber = g.fibers[self];
    if (fiber.stack != nullptr) return;
    void* p = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, guard_bytes, PROT_NONE) != 0) die("no stack for a thread");
    fiber.stack = static_cast<std::byte*>(p) + guard_bytes;
    if (__tsan_create_fiber != nullptr) fiber.watched = __tsan_create_fiber(0);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, reinterpret_cast<void (*)()>(enter), 1, self);
    g.current = self;
    g.host_stack = nullptr;
    if (__builtin_setjmp(g.host) != 0) {
        end_switch(g.host_fake_stack);
        return;
    }
    begin_switch(&g.host_fake_stack, fiber.stack, stack_bytes, fiber.watched);
    swapcontext(&starter, &context);
}

template <typename Items>
void shuffle(Items&& items, std::mt19937_64& random) {
    if (grid().seed != 0) std::shuffle(items.begin(), items.end(), random);
}

// The warps of a block in some order, the lanes of each in some order.
void order_threads(std::mt19937_64& random) {
    Grid& g = grid();
    std::vector<unsigned> warps(g.threads / lanes);
    std::iota(warps.begin(), warps.end(), 0U);
    shuffle(warps, random);
    std::array<unsigned, lanes> of_warp;
    std::iota(of_warp.begin(), of_warp.end(), 0U);
    shuffle(of_warp, random);
    unsigned at = 0;
    for (const unsigned warp : warps)
        for (const unsigned lane : of_warp) {
            g.place[warp * lanes + lane] = at;
            g.order[at++] = warp * lanes + lane;
        }
}

void fill_shared(std::size_t from, std::size_t to) {
    for (std::size_t i = from; i + 4 <= to; i += 4) std::memcpy(strata_shared + i, &never_written, 4);
}

void check_shared(std::size_t used) {
    for (std::size_t i = used; i < used + shared_guard; i += 4)
        if (std::memcmp(strata_shared + i, &never_written, 4) != 0)
            die("%s: writes beyond its %zu bytes of shared memory", running(), used);
}

}  // namespace

void set_order(std::uint64_t seed) {
    grid().seed = seed;
}

bool copies_come_early() {
    return grid().seed % 2 == 1;
}

const char* running() {
    static char text[512];
    const Grid& g = grid();
    if (g.kernel == nullptr) return "a copy";
    std::snprintf(text, sizeof text, "kernel %.300s, block (%u, %u), thread %u", name_of(g.kernel),
                  blockIdx.x, blockIdx.y, g.current);
    return text;
}

void report_misaligned(std::size_t bytes) {
    die("%s: %zu bytes at an address that is not a multiple of %zu", running(), bytes, bytes);
}

void run_grid(const void* kernel, dim3 blocks, unsigned threads, std::size_t shared,
              const std::function<void()>& thread) {
    const Access access;
    Grid& g = grid();
    if (g.kernel != nullptr) die("a kernel is launched inside of %s", running());
    if (__tsan_get_current_fiber != nullptr) g.host_watched = __tsan_get_current_fiber();
    for (unsigned t = 0; t < threads; ++t) start_fiber(t);
    g.kernel = kernel;
    g.thread = &thread;
    g.threads = threads;
    gridDim = blocks;
    blockDim = dim3(threads);
    std::mt19937_64 random(g.seed + 1000003 * ++g.launches);
    order_threads(random);
    std::vector<std::uint64_t> numbers(std::size_t{blocks.x} * blocks.y * blocks.z);
    std::iota(numbers.begin(), numbers.end(), std::uint64_t{0});
    shuffle(numbers, random);
    const std::size_t used = (shared + 3) / 4 * 4;
    fill_shared(used, used + shared_guard);
    for (const std::uint64_t number : numbers) {
        blockIdx = {static_cast<unsigned>(number % blocks.x),
                    static_cast<unsigned>(number / blocks.x % blocks.y),
                    static_cast<unsigned>(number / blocks.x / blocks.y)};
        g.alive = threads;
        g.waiting = 0;
        std::fill_n(g.state.begin(), threads, State::ready);
        for (unsigned w = 0; w < threads / lanes; ++w) g.warps[w].arrived = 0;
        fill_shared(0, used);
        release(&block_begins);
        go_from_host(g.order[0]);
        acquire(&block_ended);
        check_shared(used);
    }
    check_guards(running());
    g.kernel = nullptr;
}

void barrier(const char*) {
    Grid& g = grid();
    const unsigned self = g.current;
    char* const passed = &barriers[g.barrier_turn];
    release(passed);
    if (++g.waiting == g.alive) {
        release_barrier();
    } else {
        g.state[self] = State::at_barrier;
        go(self, next_ready());
    }
    acquire(passed);
}

const Exchanged& exchange(std::uint64_t number, unsigned mask, const char* what) {
    Grid& g = grid();
    const unsigned self = g.current, lane = self % lanes;
    Warp& warp = g.warps[self / lanes];
    if (mask != 0xffffffffU) die("%s: %s of lanes %08x; here all lanes take part", running(), what, mask);
    if (warp.arrived != 0 && warp.what != what && std::strcmp(warp.what, what) != 0)
        die("%s: a lane of warp %u is in %s while others are in %s", running(), self / lanes, what,
            warp.what);
    warp.what = what;
    if (warp.arrived == 0) warp.given.bits = 0;
    warp.given.number[lane] = number;
    warp.given.bits |= static_cast<unsigned>(number & 1) << lane;
    warp.arrived |= 1U << lane;
    const unsigned turn = warp.turn;
    release(&warp.taken[turn]);
    if (warp.arrived == 0xffffffffU) {
        warp.taken[turn] = warp.given;
        warp.arrived = 0;
        warp.turn ^= 1U;
        for (unsigned t = self - lane; t < self - lane + lanes; ++t)
            if (g.state[t] == State::at_warp) g.state[t] = State::ready;
    } else {
        g.state[self] = State::at_warp;
        const unsigned next = next_ready();
        g.current = threadIdx.x = next;
        // As go(), whose return the processor could not foresee, being to another stack than its call.
        if (__builtin_setjmp(g.fibers[self].context) == 0) {
            begin_switch(&g.fibers[self].fake_stack, g.fibers[next].stack, stack_bytes,
                         g.fibers[next].watched);
            enter_context(g.fibers[next].context);
        }
        end_switch(the_grid.fibers[the_grid.current].fake_stack);
    }
    acquire(&warp.taken[turn]);
    return warp.taken[turn];
}

}  // namespace cuda_on_cpu
