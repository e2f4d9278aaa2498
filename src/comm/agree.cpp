#include "comm/agree.h"

#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace strata {
namespace {

int status_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const Ended& ended) {
        return ended.status;
    } catch (const UsageError&) {
        return exit_usage;
    } catch (...) {
        return exit_failed;
    }
}

}  // namespace

int report(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const Ended&) {  // the message is out
    } catch (const std::bad_alloc&) {
        log::error("out of memory");
    } catch (const std::exception& e) {
        log::error("{}", e.what());
    }
    return status_of(error);
}

void together(Communicator& comm, const std::function<void()>& work) {
    std::exception_ptr error;
    try {
        work();
    } catch (...) {
        error = std::current_exception();
    }
    const std::uint64_t mine = error ? static_cast<std::uint64_t>(status_of(error)) : 0;
    std::vector<std::uint64_t> all(static_cast<std::size_t>(comm.size()));
    comm.gather({&mine, 1}, all);
    for (std::size_t r = 0; r < all.size(); ++r) {
        if (all[r] == 0) continue;
        if (static_cast<int>(r) == comm.rank()) report(error);
        throw Ended{static_cast<int>(all[r])};
    }
}

}  // namespace strata
