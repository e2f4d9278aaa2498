#include "comm/ranks.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "comm/agree.h"
#include "comm/mpi.h"

namespace strata {

int on_all_ranks(bool quiet, const std::function<int(Communicator&)>& work) {
    int argc = 0;
    char** argv = nullptr;
    const MpiSession session(argc, argv);
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    start_log(comm->rank(), comm->size(), quiet);
    try {
        return work(*comm);
    } catch (const Ended& ended) {
        return ended.status;
    } catch (...) {
        // Errors that strike every rank at once are told by the lowest: its abort ends the others while they
        // wait.
        std::this_thread::sleep_for(std::chrono::milliseconds(200) * std::min(comm->rank(), 10));
        const int status = report(std::current_exception());
        if (comm->size() == 1) return status;
        comm->abort(status);
        return status;
    }
}

}  // namespace strata
