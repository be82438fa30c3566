// longreel._host: what is not a tensor op. Numbers and names in, numbers and names out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "bindings/host_layout.h"
#include "common/cpu_isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_host, m) {
  m.doc() = "Host-side parts of longreel: the layout planner, the build record and the CPU's instruction sets.";
  m.def("build_record", [] {
    return std::map<std::string, std::string>{{"compiler", LONGREEL_BUILD_COMPILER},
                                              {"torch", LONGREEL_BUILD_TORCH},
                                              {"cuda", LONGREEL_BUILD_CUDA},
                                              {"type", LONGREEL_BUILD_TYPE}};
  });
  m.def(
      "cpu_isas",
      [] {
        std::vector<std::string> names;
        for (longreel::CpuIsa isa : longreel::available_cpu_isas()) names.push_back(longreel::name(isa));
        return names;
      },
      "Instruction sets that this machine runs, best last.");
  bind_layout(m);
}
