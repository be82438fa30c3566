// longreel._host: what is not a tensor op. Numbers and names in, numbers and names out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/host_layout.h"
#include "common/cpu_isa.h"
#include "compress_frames/scheduler.h"

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
  m.def(
      "frame_schedule",
      [](int64_t frames, int64_t tokens, int64_t channels, int64_t queries, int64_t threads) {
        const longreel::FrameSchedule schedule(frames, tokens, channels, queries, {threads, nullptr});
        const longreel::QueryChunks chunks(frames, longreel::round_up(queries, 16) * longreel::round_up(channels, 16));
        return std::tuple{schedule.workers, schedule.grain, chunks.count};
      },
      py::arg("frames"), py::arg("tokens"), py::arg("channels"), py::arg("queries"), py::arg("threads"),
      "How the frame pass is cut on the CPU: workers, frames that one takes at a time, and chunks of the queries' gradient.");
  bind_layout(m);
}
