#include "strata/train.h"

#include "comm/agree.h"
#include "comm/ranks.h"
#include "config/config.h"
#include "train/run.h"

namespace strata {

int run_training(const std::string& config_file, const std::vector<std::string>& settings,
                 const TrainOptions& options) {
    return on_all_ranks(options.quiet, [&](Communicator& comm) {
        Config config;
        together(comm, [&] { config = load_config(config_file, settings); });
        return train::run(config, {.resume = options.resume, .quiet = options.quiet}, comm);
    });
}

}  // namespace strata
