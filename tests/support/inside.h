#pragma once
// The codes and candidates that the device holds which the tests are about.

#include "support/cpu_inside.h"

namespace strata::test {

using cpu::candidates_in;
using cpu::codes_of;
using cpu::gradients_in;

}  // namespace strata::test
